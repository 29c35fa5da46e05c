"""An engine in a process of its own, as the demo sees it: started, heard, killed."""

import asyncio
import pathlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Self

from kubediffusion.cli import launch
from kubediffusion.cli.demo import script
from kubediffusion_wire import errors


class EngineProcess:
    """A running engine process; used as an async context manager that leaves none behind."""

    def __init__(self, task: script.Task, log: pathlib.Path) -> None:
        self._task = task
        self._log = log
        self._process: asyncio.subprocess.Process
        self._is_killed = False
        self.started = 0.0
        """When it was started, on the monotonic clock."""

    async def __aenter__(self) -> Self:
        """Start it and say what it is to do."""
        self.started = time.monotonic()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "kubediffusion.cli.demo.engine_process"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(self._task.dumps().encode() + b"\n")
        await stdin.drain()
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Kill it if it still runs, and collect it."""
        if self._process.returncode is None:
            self.kill()
        await self._process.wait()

    @property
    def process_id(self) -> int:
        """Its process id."""
        return self._process.pid

    async def words(self) -> AsyncIterator[script.Word]:
        """Answer what it says, until it has ended."""
        stdout = self._process.stdout
        assert stdout is not None
        async for line in stdout:
            # A kill may cut the last line off.
            if line.endswith(b"\n"):
                yield script.read_word(line.decode())

    def kill(self) -> None:
        """Send SIGKILL, against which a process can do nothing. Idempotent."""
        # A second signal would make subprocess collect the process, which asyncio wants to do.
        if not self._is_killed:
            self._process.send_signal(signal.SIGKILL)
        self._is_killed = True

    async def check_done(self) -> None:
        """Wait for its end.

        Raises:
            kubediffusion_wire.errors.InternalError: It failed.
        """
        code = await self._process.wait()
        if code:
            raise errors.InternalError(
                f"the engine process ended with code {code}: {launch.last_words(self._log)}"
                f" (log: {self._log})"
            )

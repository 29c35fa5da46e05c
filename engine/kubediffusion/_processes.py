"""Worker processes that are children of the engine: starting, listening, ending."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kubediffusion_wire import errors

logger = logging.getLogger(__name__)

KEPT_LINES = 40
"""Lines of a worker's stderr that are kept for error messages."""

MAX_LINE_BYTES = 8_192
"""Of a line; what is longer is cut."""

DRAIN_SECONDS = 1.0
"""That the pipes of a dead process get to say their last words."""

KILL_SECONDS = 10.0
"""That the kernel gets to end a killed process; more when it hangs in a driver."""

_parent_pipes: set[int] = set()


def _close_parent_pipes() -> None:
    # A forked child that kept the writing ends would keep the workers of a dead engine alive.
    for descriptor in _parent_pipes:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _parent_pipes.clear()


os.register_at_fork(after_in_child=_close_parent_pipes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a worker."""

    name: str

    arguments: Sequence[str]
    """The command line, without `--parent-fd`."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """What a worker says when it answers calls."""

    address: str
    incarnation: str


class WorkerProcess:
    """A running child process.

    It is started from the engine's loop thread, which lives as long as the engine: Linux
    sends the parent-death signal when the *thread* that started a child ends. No code of
    this process runs in the child.

    Raises:
        WorkerFailedError: The program cannot be started.
    """

    def __init__(self, launch: Launch) -> None:
        self.name = launch.name
        self._loop = asyncio.get_running_loop()
        self._lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._listening: asyncio.Future[Listening] = self._loop.create_future()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._transports: list[asyncio.ReadTransport] = []
        self._open_pipes = 2
        self._drained = asyncio.Event()
        self._process, self._parent_pipe = _spawn(launch)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._pipes = ((self._process.stdout, self._hear), (self._process.stderr, self._log))
        self._unread = {pipe for pipe, _ in self._pipes}
        threading.Thread(
            target=_wait,
            args=(self._process, self._loop, self._on_exit),
            name=f"kubediffusion-{launch.name}",
            daemon=True,
        ).start()

    @classmethod
    async def start(cls, launch: Launch) -> WorkerProcess:
        """Start a worker; it has yet to listen and to load its model."""
        process = cls(launch)
        try:
            await process._read_pipes()
        except BaseException:  # A cancel, mostly: nobody else knows of the process yet.
            await process.stop(0.0)
            raise
        logger.info("started a worker", extra={"worker": launch.name, "pid": process.pid})
        return process

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to have ended."""
        return self._ended.done()

    @property
    def last_words(self) -> str:
        """The last line of stderr: why the process ended, if it said so."""
        return next((line for line in reversed(self._lines) if line.strip()), "").strip()

    async def listening(self) -> Listening:
        """Wait until the worker answers calls.

        Raises:
            WorkerGoneError: The process has ended before.
        """
        await asyncio.wait((self._listening, self._ended), return_when=asyncio.FIRST_COMPLETED)
        if self._listening.done():
            return self._listening.result()
        raise errors.WorkerGoneError(f"worker {self.name!r} ended before it listened")

    async def wait(self) -> int:
        """Wait for the end; returns the exit code, or minus the signal that killed it."""
        code = await asyncio.shield(self._ended)
        with contextlib.suppress(TimeoutError):
            # A grandchild may hold the pipes open.
            await asyncio.wait_for(self._drained.wait(), DRAIN_SECONDS)
        return code

    async def stop(self, grace: float) -> None:
        """End the process: SIGTERM, and SIGKILL after `grace` seconds. Idempotent."""
        try:
            await self._end_by(signal.SIGTERM, grace)
            if not self._ended.done():
                logger.warning("worker ignores SIGTERM", extra={"worker": self.name})
        finally:
            if not self._ended.done():
                await self._end_by(signal.SIGKILL, KILL_SECONDS)
            self._close()

    async def _end_by(self, number: signal.Signals, timeout: float) -> None:
        if self._ended.done():
            return
        self._process.send_signal(number)
        await asyncio.wait({self._ended}, timeout=timeout)

    async def _read_pipes(self) -> None:
        for pipe, take in self._pipes:
            self._unread.discard(pipe)
            lines = functools.partial(_Lines, take, self._on_pipe_end)
            transport, _ = await self._loop.connect_read_pipe(lines, pipe)
            self._transports.append(transport)

    def _hear(self, line: str) -> None:
        if self._listening.done():
            return
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            if told["event"] == "listening":
                listening = Listening(address=told["address"], incarnation=told["incarnation"])
                self._listening.set_result(listening)

    def _log(self, line: str) -> None:
        self._lines.append(line)
        logger.debug("worker said", extra={"worker": self.name, "line": line})

    def _on_pipe_end(self) -> None:
        self._open_pipes -= 1
        if not self._open_pipes:
            self._drained.set()

    def _on_exit(self, code: int) -> None:
        self._ended.set_result(code)

    def _close(self) -> None:
        for transport in self._transports:
            transport.close()
        for pipe in self._unread:
            pipe.close()
        if self._parent_pipe in _parent_pipes:
            _parent_pipes.discard(self._parent_pipe)
            os.close(self._parent_pipe)


def _spawn(launch: Launch) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process with a pipe whose end tells it that this process has died."""
    reading, writing = os.pipe()
    _parent_pipes.add(writing)
    try:
        process = subprocess.Popen(
            [*launch.arguments, "--parent-fd", str(reading)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(reading,),
            env={**os.environ, **launch.environment},
            # Ctrl-C in a terminal is for the engine, which then ends its workers.
            start_new_session=True,
        )
    except OSError as error:
        _parent_pipes.discard(writing)
        os.close(writing)
        raise errors.WorkerFailedError(
            f"cannot start worker {launch.name!r}: {launch.arguments[0]!r}: {error.strerror}"
        ) from error
    finally:
        os.close(reading)
    return process, writing


def _wait(
    process: subprocess.Popen[bytes],
    loop: asyncio.AbstractEventLoop,
    on_exit: Callable[[int], None],
) -> None:
    code = process.wait()
    if not loop.is_closed():
        loop.call_soon_threadsafe(on_exit, code)


class _Lines(asyncio.Protocol):
    """Cuts what comes through a pipe into lines."""

    def __init__(self, take: Callable[[str], None], on_end: Callable[[], None]) -> None:
        self._take = take
        self._on_end = on_end
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line[:MAX_LINE_BYTES].decode(errors="replace"))
        self._rest = self._rest[:MAX_LINE_BYTES]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._take(self._rest.decode(errors="replace"))
        self._on_end()

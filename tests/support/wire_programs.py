"""Runs the programs wire_server and wire_client and listens to what they say."""

import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Self

PATIENCE = 45.0
"""Seconds after which a program that says nothing has failed."""


class Program:
    """One of the programs beside this file, running."""

    def __init__(self, name: str, *arguments: str, environment: Mapping[str, str] = {}) -> None:
        path = pathlib.Path(__file__).with_name(f"{name}.py")
        self._process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def line(self, timeout: float = PATIENCE) -> str:
        """Returns the next line that the program says.

        Raises:
            AssertionError: It ended without one, or says nothing for `timeout` seconds.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no line within {timeout} seconds") from None
        if line is None:
            raise AssertionError(f"the program ended with {self._process.wait()}")
        return line

    def stop(self) -> None:
        """Stops the process where it is; its sockets stay open and silent."""
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Ends the process, stopped or not."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

"""Runs the real command line as a process, with a registry and a home of its own."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from kubediffusion_wire import registry

SECONDS = 120.0
"""After which a command counts as hung."""


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:  # Any: whatever the command printed.
        """Its standard output as JSON."""
        return json.loads(self.out)


class CommandLine:
    """A working folder with an environment in which commands find one another's workers."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.registry = folder / "registry"
        self._environment = {
            **{name: v for name, v in os.environ.items() if not name.startswith("KUBEDIFFUSION_")},
            "KUBEDIFFUSION_REGISTRY": str(self.registry),
            "OMP_NUM_THREADS": "1",
            # The lines of help must not depend on the terminal that the tests run in.
            "COLUMNS": "100",
        }

    def run(self, *arguments: str, **environment: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            self._command(arguments),
            cwd=self.folder,
            env={**self._environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it to the caller, who reads stdout and stderr."""
        return subprocess.Popen(
            self._command(arguments),
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def workers(self) -> list[registry.Entry]:
        """The workers that are announced."""
        return registry.read(self.registry)

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "kubediffusion", *arguments]


@contextlib.contextmanager
def command_line() -> Iterator[CommandLine]:
    """A command line in a new folder, whose workers end with the context."""
    # Short: the path of a Unix socket has at most 107 bytes.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kd-cli-"))
    line = CommandLine(folder)
    try:
        yield line
    finally:
        for entry in line.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(entry.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)

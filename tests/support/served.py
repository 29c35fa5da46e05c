"""Workers to call in tests: in this process, over a socket, or as processes of their own."""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

from callers import PATIENCE, Calls, Client
from kubediffusion_wire import channels
from kubediffusion_worker import config, invariants, runtime, server, testing

TRANSPORTS = ("in-process", "tcp", "unix")


@dataclasses.dataclass
class Served:
    """A worker in this process."""

    runtime: runtime.WorkerRuntime
    pipeline: testing.FakePipeline
    address: str
    """Empty in-process."""
    calls: Any

    def client(self, engine_id: str = "e", epoch: int = 1, role: str = "ENGINE") -> Client:
        return Client(self.calls, engine_id, epoch, role)


@contextlib.asynccontextmanager
async def serving(
    transport: str = "tcp",
    settings: config.WorkerConfig | None = None,
    pipeline: testing.FakePipeline | None = None,
) -> AsyncIterator[Served]:
    """Serve a fake pipeline; check the invariants of the state machine at the end."""
    used = pipeline or testing.FakePipeline()
    async with contextlib.AsyncExitStack() as stack:
        worker = await stack.enter_async_context(testing.a_runtime(used, settings))
        if transport == "in-process":
            yield Served(worker, used, "", worker)
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            listen = "127.0.0.1:0" if transport == "tcp" else f"unix:{folder}/w.sock"
            front = server.Server(worker, listen)
            address = str(await front.start())
            stack.push_async_callback(front.stop)
            channel = channels.open_channel(address)
            stack.push_async_callback(channel.close)
            yield Served(worker, used, address, Calls(channel))
        invariants.check(worker.machine)


@contextlib.asynccontextmanager
async def connected(address: str, **options: Any) -> AsyncIterator[Client]:
    """Call a worker at an address."""
    async with channels.open_channel(address, **options) as channel:
        yield Client(Calls(channel))


@dataclasses.dataclass
class Process:
    """A worker process that says where it listens."""

    process: "subprocess.Popen[str]"
    listening: dict[str, Any]

    @property
    def address(self) -> str:
        return str(self.listening["address"])

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.wait)

    def log(self) -> list[dict[str, Any]]:
        """Return what it has logged, after its end."""
        assert self.process.stderr is not None
        lines = self.process.stderr.read().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def command(*flags: str, module: str = "kubediffusion_worker.testing") -> list[str]:
    return [sys.executable, "-m", module, "--registry", "none", *flags]


@contextlib.contextmanager
def a_process(
    *flags: str,
    module: str = "kubediffusion_worker.testing",
    model: str = "fake",
    environment: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Iterator[Process]:
    """Start a worker process, by default one with a fake pipeline; kill it at the end."""
    process = subprocess.Popen(
        command("--model", model, *flags, module=module),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        pass_fds=pass_fds,
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            yield Process(process, json.loads(line))
        finally:
            process.kill()


def run_to_end(
    *flags: str, module: str = "kubediffusion_worker.testing"
) -> "subprocess.CompletedProcess[str]":
    """Start a worker that is not going to stay; return how it ended."""
    return subprocess.run(
        command(*flags, module=module),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def short_folder() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder whose path is short enough for a Unix socket."""
    return tempfile.TemporaryDirectory(prefix="kd-", dir=pathlib.Path(tempfile.gettempdir()))

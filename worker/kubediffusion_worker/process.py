"""The life of a worker process: listen, load, serve, drain, end."""

import asyncio
import enum
import json
import logging
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import assert_never

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import addresses, channels, errors, registry
from kubediffusion_worker import (
    announcement,
    conductor,
    config,
    crash,
    parenthood,
    probes,
    runtime,
    server,
    views,
)

logger = logging.getLogger(__name__)

FAREWELL_SECONDS = 5.0
"""Seconds that engines get, after the device has failed, to fetch what was done before."""


HURRY_SECONDS = 5.0
"""Seconds that a second signal leaves for saving what runs, and for engines to fetch it."""


class ExitCode(enum.IntEnum):
    """How the process ends."""

    OK = 0
    USAGE = 2
    MODEL = 3
    """The model cannot be loaded."""
    DEVICE = 4
    """The device has failed."""
    LISTEN = 5
    """An address is in use, or not of this machine."""


async def serve(settings: config.ProcessConfig, *, load: conductor.Load | None = None) -> ExitCode:
    """Be a worker until a signal ends it, or it fails.

    Prints one line of JSON to standard output when it answers calls; the model may still
    be loading then. Problems are one line on standard error.

    Args:
        settings: What the process was told.
        load: Loads the pipeline; None: the model of the settings.
    """
    worker = runtime.WorkerRuntime(settings.worker, load=load)
    end = _End()
    end.follow_signals(worker)
    try:
        async with _listening(settings, worker):
            return await _live(settings, worker, end)
    except channels.ListenError as error:
        return _give_up(ExitCode.LISTEN, str(error))
    except (errors.InvalidRequestError, errors.UntrustedPeerError) as error:
        return _give_up(ExitCode.USAGE, error.message)


class _End:
    """Knows whether the process was told to end; from before anybody can know of it."""

    def __init__(self) -> None:
        self._asked = 0
        self.is_near = asyncio.Event()
        self._hurries: set[asyncio.Task[None]] = set()

    @property
    def is_asked_for(self) -> bool:
        """Whether there was a signal."""
        return self._asked > 0

    def follow_signals(self, worker: runtime.WorkerRuntime) -> None:
        """Let the first signal begin the end, a second one hurry it, a third one be it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask, worker)

    def _ask(self, worker: runtime.WorkerRuntime) -> None:
        if self._asked:
            budget = HURRY_SECONDS if self._asked == 1 else 0.0
            closing = worker.close(budget, worker_pb2.DRAIN_POLICY_CHECKPOINT)
            self._hurries.add(asyncio.ensure_future(closing))
        self._asked += 1
        self.is_near.set()


@asynccontextmanager
async def _listening(
    settings: config.ProcessConfig, worker: runtime.WorkerRuntime
) -> AsyncIterator[None]:
    """Open everything by which the worker can be reached; close it in reverse."""
    async with AsyncExitStack() as stack:
        grpc_server = server.Server(
            worker, settings.listen, tls=settings.tls, insecure=settings.insecure
        )
        address = await grpc_server.start()
        stack.push_async_callback(_stop_server, grpc_server, address)
        http = ""
        if settings.http:
            prober = probes.ProbeServer(settings.http, worker.facts, worker.metrics.text)
            prober.start()
            stack.callback(prober.stop)
            http = str(prober.address)
        known = await _announce(settings, worker, address, http)
        if known is not None:
            stack.push_async_callback(known.stop)
        if settings.parent_fd is not None:
            _follow_parent(settings.parent_fd, address, known)
        _say_where(settings, worker, address, http)
        yield


async def _live(
    settings: config.ProcessConfig, worker: runtime.WorkerRuntime, end: _End
) -> ExitCode:
    worker.failed.add_done_callback(lambda _: end.is_near.set())
    await worker.start()
    await end.is_near.wait()
    if not end.is_asked_for:
        return await _fail(settings, worker, worker.failed.result())
    await worker.close(settings.grace)
    logger.info("Worker ends")
    return ExitCode.OK


async def _fail(
    settings: config.ProcessConfig, worker: runtime.WorkerRuntime, failure: conductor.Failure
) -> ExitCode:
    if failure.kind == "model":
        model = worker.settings.model.model
        return _give_up(ExitCode.MODEL, f"cannot serve model {model!r}: {failure.message}")
    if failure.kind == "device":
        crash.record(settings, worker.incarnation, failure)
        await worker.close(FAREWELL_SECONDS)
        return _give_up(ExitCode.DEVICE, failure.message)
    assert_never(failure.kind)


async def _announce(
    settings: config.ProcessConfig,
    worker: runtime.WorkerRuntime,
    address: addresses.Address,
    http: str,
) -> announcement.Announcement | None:
    if settings.registry is None:
        return None
    entry = registry.Entry(
        name=settings.worker.name,
        address=str(address),
        incarnation=worker.incarnation,
        pid=os.getpid(),
        model=views.model_id(settings.worker.model.model),
        labels={"http": http} if http else {},
    )
    known = announcement.Announcement(entry, settings.registry)
    await known.start()
    return known


def _follow_parent(
    parent_fd: int, address: addresses.Address, known: announcement.Announcement | None
) -> None:
    try:
        parenthood.follow(parent_fd, lambda: _leave_nothing(address, known))
    except OSError as error:
        raise errors.InvalidRequestError.at(
            "--parent-fd", f"must be an open file; found {parent_fd}: {error.strerror}"
        ) from error


def _say_where(
    settings: config.ProcessConfig,
    worker: runtime.WorkerRuntime,
    address: addresses.Address,
    http: str,
) -> None:
    logger.info("Worker listens", extra={"address": str(address), "http": http})
    line = {
        "event": "listening",
        "address": str(address),
        "http": http,
        "incarnation": worker.incarnation,
        "name": settings.worker.name,
        "pid": os.getpid(),
    }
    print(json.dumps(line), flush=True)  # noqa: T201  # the one line that others wait for


async def _stop_server(grpc_server: server.Server, address: addresses.Address) -> None:
    await grpc_server.stop()
    _leave_nothing(address, None)


def _leave_nothing(address: addresses.Address, known: announcement.Announcement | None) -> None:
    if known is not None:
        known.remove()
    if address.is_unix:
        pathlib.Path(address.path).unlink(missing_ok=True)


def _give_up(code: ExitCode, text: str) -> ExitCode:
    # One write, so that no line of the log gets between the text and its end.
    sys.stderr.write(f"kubediffusion-worker: {text}\n")
    sys.stderr.flush()
    return code

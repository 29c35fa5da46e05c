"""Workers in this process that outlive engines, over links that can be cut."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import kubediffusion
from kubediffusion import _loop, errors
from kubediffusion._links import inprocess, protocol
from kubediffusion.executors import linked
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import config, lifecycle, queueing, runtime, testing

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds; only ever waited for on failure."""


class FakeWorker:
    """A worker with a fake pipeline; lives on the loop that all engines of a process share."""

    def __init__(self, name: str, settings: config.WorkerConfig) -> None:
        self.name = name
        self.settings = settings
        self.pipeline = testing.FakePipeline()
        self.runtime: runtime.WorkerRuntime | None = None
        self.executed = 0
        """Runs of earlier lives."""
        self.links: list[FaultyLink] = []

    async def start(self) -> None:
        """Begin a life."""
        self.executed += len(self.pipeline.executed)
        self.pipeline = testing.FakePipeline()
        pipeline = self.pipeline
        self.runtime = runtime.WorkerRuntime(
            self.settings, load=lambda: pipeline, encode=testing.encode_raw
        )
        await self.runtime.start()
        await self.runtime.serving()

    async def end(self) -> None:
        """End a life as kill -9 does: whoever is connected finds a closed connection."""
        ended, self.runtime = self.runtime, None
        for link in self.links:
            link.break_streams()
        if ended is not None:
            await ended.close(0.0)

    @property
    def incarnation(self) -> str:
        """Of the current life."""
        assert self.runtime is not None
        return self.runtime.incarnation

    @property
    def executions(self) -> int:
        """Runs of all lives."""
        return self.executed + len(self.pipeline.executed)

    @property
    def held(self) -> list[str]:
        """Ids of the generations that it holds."""
        assert self.runtime is not None
        return [key.request_id for key in self.runtime.machine.generations]


class FaultyLink:
    """A link in this process that can be cut and can lose answers."""

    def __init__(self, worker: FakeWorker) -> None:
        self.worker = worker
        self.name = worker.name
        self.address = f"fake:{worker.name}"
        self.is_gone = False
        self.is_cut = False
        self.losing: collections.Counter[str] = collections.Counter()
        """How many answers of a method are still to be lost."""
        self.calls: collections.Counter[str] = collections.Counter()
        self._open: list[asyncio.Queue[Any]] = []  # Any: of any stream

    def cut(self) -> None:
        """Let all calls and streams fail."""
        self.is_cut = True
        self.break_streams()

    def heal(self) -> None:
        """Let calls through again."""
        self.is_cut = False

    def break_streams(self) -> None:
        """Let the streams that are open now fail."""
        for news in self._open:
            news.put_nowait(errors.WorkerGoneError(f"the stream of {self.name!r} broke"))

    async def get_worker(self, engine_id: str = "") -> worker_pb2.GetWorkerResponse:
        return await self._call("get_worker", lambda link: link.get_worker(engine_id))

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest
    ) -> worker_pb2.SubmitGenerationResponse:
        return await self._call("submit", lambda link: link.submit_generation(request))

    def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        return self._stream("watch", lambda link: link.watch_generations(request))

    def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncIterator[worker_pb2.ListGenerationsResponse]:
        return self._stream("list", lambda link: link.list_generations(request))

    async def fetch_result(
        self, engine_id: str, request_id: str, header: worker_pb2.Result | None = None
    ) -> protocol.FetchedResult:
        return await self._call(
            "fetch", lambda link: link.fetch_result(engine_id, request_id, header)
        )

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest
    ) -> worker_pb2.AckGenerationResponse:
        return await self._call("ack", lambda link: link.ack_generation(request))

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest
    ) -> worker_pb2.CancelGenerationResponse:
        return await self._call("cancel", lambda link: link.cancel_generation(request))

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest
    ) -> worker_pb2.PauseGenerationResponse:
        return await self._call("pause", lambda link: link.pause_generation(request))

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest
    ) -> worker_pb2.UnpauseGenerationResponse:
        return await self._call("unpause", lambda link: link.unpause_generation(request))

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest
    ) -> worker_pb2.TakeCheckpointResponse:
        return await self._call("checkpoint", lambda link: link.take_checkpoint(request))

    async def fetch_checkpoint(
        self, engine_id: str, request_id: str, step: int = 0
    ) -> protocol.FetchedCheckpoint:
        return await self._call(
            "fetch_checkpoint", lambda link: link.fetch_checkpoint(engine_id, request_id, step)
        )

    async def import_checkpoint(
        self,
        caller: worker_pb2.Caller,
        request_id: str,
        info: worker_pb2.CheckpointInfo,
        data: bytes | bytearray | memoryview,
    ) -> str:
        return await self._call(
            "import", lambda link: link.import_checkpoint(caller, request_id, info, data)
        )

    async def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        return await self._call("drain", lambda link: link.drain(request))

    async def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        return await self._call("undrain", lambda link: link.undrain(request))

    async def call_method(
        self, request: worker_pb2.CallMethodRequest, timeout: float | None = None
    ) -> worker_pb2.CallMethodResponse:
        return await self._call("method", lambda link: link.call_method(request, timeout))

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest
    ) -> worker_pb2.LoadAdapterResponse:
        return await self._call("load", lambda link: link.load_adapter(request))

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest
    ) -> worker_pb2.UnloadAdapterResponse:
        return await self._call("unload", lambda link: link.unload_adapter(request))

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest
    ) -> worker_pb2.ListAdaptersResponse:
        return await self._call("adapters", lambda link: link.list_adapters(request))

    async def close(self) -> None:
        self.cut()

    def _inner(self) -> inprocess.InProcessLink:
        if self.is_cut or self.worker.runtime is None:
            raise errors.WorkerGoneError(f"worker {self.name!r} cannot be reached")
        return inprocess.InProcessLink(self.name, self.worker.runtime)

    async def _call(
        self, method: str, call: Callable[[inprocess.InProcessLink], Awaitable[T]]
    ) -> T:
        self.calls[method] += 1
        answer = await call(self._inner())
        if self.losing[method] > 0:
            self.losing[method] -= 1
            raise errors.WorkerGoneError(f"the answer of worker {self.name!r} was lost")
        return answer

    async def _stream(
        self, method: str, call: Callable[[inprocess.InProcessLink], AsyncIterator[T]]
    ) -> AsyncIterator[T]:
        self.calls[method] += 1
        items = call(self._inner())
        news: asyncio.Queue[T | Exception] = asyncio.Queue()
        self._open.append(news)
        pump = asyncio.ensure_future(_pump(items, news))
        try:
            while True:
                item = await news.get()
                if isinstance(item, StopAsyncIteration):
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._open.remove(news)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


async def _pump(items: AsyncIterator[T], news: asyncio.Queue[T | Exception]) -> None:
    try:
        async for item in items:
            news.put_nowait(item)
    except errors.KubediffusionError as error:
        news.put_nowait(error)
    else:
        news.put_nowait(StopAsyncIteration())


class FakeFleet:
    """Some workers; engines come and go."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self._loop = _loop.EngineLoop()  # Keeps the loop's thread through all engines.
        self.workers = {
            name: FakeWorker(
                name, config.WorkerConfig(model=testing.FAKE_MODEL, name=name, **settings)
            )
            for name in names or ("a",)
        }
        for worker in self.workers.values():
            self.run(worker.start())

    def run(self, coroutine: Any) -> Any:
        """Run something on the loop."""
        return self._loop.run(coroutine, PATIENCE)

    def call(self, function: Callable[[], object]) -> None:
        """Call something on the loop."""

        async def once() -> None:
            function()

        self.run(once())

    def kill(self, name: str, *, restart: bool = True) -> None:
        """End a worker's life, and begin another."""
        self.run(self.workers[name].end())
        if restart:
            self.run(self.workers[name].start())

    def link(self, name: str) -> FaultyLink:
        """Return the newest engine's link to a worker."""
        return self.workers[name].links[-1]

    def cut(self, name: str) -> None:
        """Cut the newest engine's link to a worker."""
        self.call(self.link(name).cut)

    def heal(self, name: str) -> None:
        """Heal the newest engine's link to a worker."""
        self.call(self.link(name).heal)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; fails after a minute."""

        async def poll() -> None:
            async with asyncio.timeout(PATIENCE):
                while not condition():  # noqa: ASYNC110  # conditions of all kinds
                    await asyncio.sleep(0.002)

        self.run(poll())

    def allow(self, steps: int = 1000) -> None:
        """Let gated runs take steps on all workers."""
        for worker in self.workers.values():
            worker.pipeline.gate.allow(steps)

    @property
    def executions(self) -> int:
        """Runs on all workers, in all their lives."""
        return sum(worker.executions for worker in self.workers.values())

    def config(self, **options: Any) -> kubediffusion.OmniDiffusionConfig:
        """Return the configuration of an engine over this fleet."""
        return kubediffusion.OmniDiffusionConfig(
            **{
                "engine_id": "e",
                "distributed_executor_backend": self._executor_class(),
                "progress_interval": 0.01,
                **options,
            }
        )

    def engine(self, **options: Any) -> kubediffusion.DiffusionEngine:
        """Build an engine over this fleet."""
        return kubediffusion.DiffusionEngine(self.config(**options))

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            self.run(worker.end())
        self._loop.close()

    def _executor_class(self) -> type[linked.LinkedExecutor]:
        fleet = self

        class FleetExecutor(linked.LinkedExecutor):
            """Yields the fleet's links."""

            def _connect(self, loop: _loop.EngineLoop) -> None:
                loop.run(self._link())

            async def _link(self) -> None:
                links = []
                for worker in fleet.workers.values():
                    worker.links.append(FaultyLink(worker))
                    links.append(worker.links[-1])
                self._roster.publish(links)

            async def _disconnect(self) -> None:
                pass

        return FleetExecutor


@contextlib.contextmanager
def fleet(*names: str, **settings: Any) -> Iterator[FakeFleet]:
    """Run some workers."""
    workers = FakeFleet(*names, **settings)
    try:
        yield workers
    finally:
        workers.close()


def crash(engine: kubediffusion.DiffusionEngine) -> None:
    """Let an engine vanish as after kill -9, as far as that is possible in one process.

    Nothing is flushed, acknowledged or cancelled; only locks are released, as the system
    would do.
    """
    assembly = engine._assembly
    core, loop = assembly._core, assembly._loop
    assert core is not None
    assert loop is not None

    async def vanish() -> None:
        core.stopped = errors.EngineClosedError("crashed")
        core._acks._leaving.clear()
        for task in list(core._actions._tasks):
            task.cancel()
        for task in core._services:
            task.cancel()
        core._fleet.cancel()
        await core._fleet.closed(PATIENCE)

    loop.run(vanish())
    engine.close()


def gated(request_id: str = "", **fields: Any) -> dict[str, Any]:
    """Return a request of ten steps that waits for the workers' gates before each."""
    extra = {"is_gated": True, **fields.pop("extra_args", {})}
    return {
        "prompt": "p",
        "request_id": request_id,
        "num_inference_steps": 10,
        "extra_args": extra,
        **fields,
    }


def small_queue(places: int) -> lifecycle.LifecycleConfig:
    """Return bounds that let only a few generations wait."""
    limits = queueing.LineLimits(max_items=places, max_items_per_engine=places)
    return lifecycle.LifecycleConfig(line_limits=limits)


def wait_for(generation: kubediffusion.Generation, kind: str) -> kubediffusion.GenerationEvent:
    """Return the first event of a kind."""
    return next(event for event in generation.events() if event.kind == kind)

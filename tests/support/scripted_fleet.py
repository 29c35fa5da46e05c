"""Workers in this process that do what a test says, step by step."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import kubediffusion
from kubediffusion import _loop, errors
from kubediffusion._links import protocol
from kubediffusion.executors import linked
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors as wire_errors
from kubediffusion_wire import identifiers

PATIENCE = 60.0
"""Seconds; only ever waited for on failure."""

RESULT = b"result"


class Held:
    """A generation on a scripted worker."""

    def __init__(self, request: worker_pb2.SubmitGenerationRequest) -> None:
        self.request = request
        self.message = worker_pb2.Generation(
            engine_id=request.caller.engine_id,
            request_id=request.request_id,
            state=worker_pb2.GENERATION_STATE_QUEUED,
            spec_digest=identifiers.spec_digest(request.spec),
            attempt=request.attempt,
        )
        self.events: list[worker_pb2.GenerationEvent] = []
        self.checkpoints: dict[int, bytes] = {}
        self.wishes: list[str] = []
        """What it was asked for: "pause", "unpause", "cancel"."""


class ScriptedWorker:
    """Is a `WorkerLink` too: the link of every engine to it. Lives on the engines' loop."""

    def __init__(self, name: str, *, fingerprint: str = "f") -> None:
        self.name = name
        self.address = f"scripted:{name}"
        self.incarnation = identifiers.new_incarnation()
        self.fingerprint = fingerprint
        self.state = worker_pb2.WORKER_STATE_SERVING
        self.resume = worker_pb2.RESUME_CAPABILITY_EXACT
        self.is_gone = False
        self.is_cut = False
        self.held: dict[str, Held] = {}
        self.submitted: list[worker_pb2.SubmitGenerationRequest] = []
        self.acknowledged: list[str] = []
        self.imported: dict[str, bytes] = {}
        self.fetches: list[tuple[str, int]] = []
        """Of checkpoints: request id, and step that was given."""
        self.fetching = 0
        self.most_fetching = 0
        self.may_fetch = asyncio.Event()
        self.may_fetch.set()
        self.import_error: errors.KubediffusionError | None = None
        self.submit_error: Callable[
            [worker_pb2.SubmitGenerationRequest], errors.KubediffusionError | None
        ] = lambda _: None
        self.listings = 0
        """How often it was asked what it holds."""
        self.ages: dict[str, float] = {}
        """Seconds since the last progress, as a listing tells it."""
        self._watchers: list[asyncio.Queue[worker_pb2.WatchGenerationsResponse | None]] = []

    # -- the script

    def tell(self, request_id: str, **event: Any) -> None:
        """Let something have happened to a generation."""
        held = self.held[request_id]
        message = worker_pb2.GenerationEvent(
            engine_id=held.message.engine_id,
            request_id=request_id,
            sequence=len(held.events) + 1,
            attempt=held.message.attempt,
            **event,
        )
        held.events.append(message)
        for watcher in self._watchers:
            watcher.put_nowait(worker_pb2.WatchGenerationsResponse(events=[message]))

    def start(self, request_id: str) -> None:
        self.held[request_id].message.state = worker_pb2.GENERATION_STATE_RUNNING
        self.tell(request_id, started=worker_pb2.StartedEvent())

    def step(self, request_id: str, step: int, total: int = 10, seconds: float = 1.0) -> None:
        progress = worker_pb2.Progress(step=step, total=total, seconds_per_step=seconds)
        self.held[request_id].message.progress.CopyFrom(progress)
        self.tell(request_id, progress=progress)

    def save(self, request_id: str, step: int, data: bytes | None = None) -> None:
        """Take a checkpoint and announce it."""
        held = self.held[request_id]
        held.checkpoints[step] = checkpoint_bytes(request_id, step) if data is None else data
        info = self.info(request_id, step)
        self.tell(
            request_id,
            checkpointed=worker_pb2.CheckpointedEvent(
                step=step, size=info.size, sha256=info.sha256
            ),
        )

    def hand_over(self, request_id: str) -> None:
        held = self.held[request_id]
        held.message.state = worker_pb2.GENERATION_STATE_HANDED_OVER
        event = worker_pb2.HandedOverEvent()
        if held.checkpoints:
            event.checkpoint.CopyFrom(self.info(request_id, max(held.checkpoints)))
        self.tell(request_id, handed_over=event)

    def finish(self, request_id: str) -> None:
        held = self.held[request_id]
        held.message.state = worker_pb2.GENERATION_STATE_SUCCEEDED
        held.message.result.CopyFrom(
            worker_pb2.Result(size=len(RESULT), sha256=hashlib.sha256(RESULT).hexdigest())
        )
        self.tell(request_id, succeeded=worker_pb2.SucceededEvent(result=held.message.result))

    def fail(self, request_id: str, error: errors.KubediffusionError) -> None:
        held = self.held[request_id]
        held.message.state = worker_pb2.GENERATION_STATE_FAILED
        held.message.error.CopyFrom(wire_errors.to_message(error))
        self.tell(request_id, failed=worker_pb2.FailedEvent(error=held.message.error))

    def change_state(self, state: worker_pb2.WorkerState) -> None:
        self.state = state
        for watcher in self._watchers:
            watcher.put_nowait(worker_pb2.WatchGenerationsResponse(state=state))

    def cut(self) -> None:
        """Let all calls and streams fail."""
        self.is_cut = True
        for watcher in self._watchers:
            watcher.put_nowait(None)

    def die(self) -> None:
        self.is_gone = True
        self.cut()

    def info(self, request_id: str, step: int) -> worker_pb2.CheckpointInfo:
        data = self.held[request_id].checkpoints[step]
        return worker_pb2.CheckpointInfo(
            step=step,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            fingerprint=self.fingerprint,
            format=1,
        )

    # -- the link

    async def get_worker(self, engine_id: str = "") -> worker_pb2.GetWorkerResponse:
        del engine_id
        self._check()
        worker = worker_pb2.Worker(
            name=self.name,
            incarnation=self.incarnation,
            state=self.state,
            fingerprint=self.fingerprint,
            capabilities=worker_pb2.Capabilities(resume=self.resume),
        )
        return worker_pb2.GetWorkerResponse(worker=worker)

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest
    ) -> worker_pb2.SubmitGenerationResponse:
        self._check()
        if (error := self.submit_error(request)) is not None:
            raise error
        is_created = request.request_id not in self.held
        if is_created:
            self.submitted.append(request)
            self.held[request.request_id] = Held(request)
            self.tell(request.request_id, queued=worker_pb2.QueuedEvent())
        return worker_pb2.SubmitGenerationResponse(
            generation=self.held[request.request_id].message,
            is_created=is_created,
            incarnation=self.incarnation,
        )

    async def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        self._check()
        watcher: asyncio.Queue[worker_pb2.WatchGenerationsResponse | None] = asyncio.Queue()
        yield worker_pb2.WatchGenerationsResponse(incarnation=self.incarnation, state=self.state)
        for request_id, held in self.held.items():
            seen = request.after_sequences.get(request_id, 0)
            yield worker_pb2.WatchGenerationsResponse(events=held.events[seen:])
        self._watchers.append(watcher)
        try:
            while (response := await watcher.get()) is not None:
                yield response
        finally:
            self._watchers.remove(watcher)
        raise errors.WorkerGoneError(f"the stream of {self.name!r} broke")

    async def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncIterator[worker_pb2.ListGenerationsResponse]:
        self._check()
        self.listings += 1
        listed = []
        for request_id, held in self.held.items():
            message = worker_pb2.Generation()
            message.CopyFrom(held.message)
            message.progress_age.FromNanoseconds(int(self.ages.get(request_id, 0.0) * 1e9))
            if not request.states or message.state in request.states:
                listed.append(message)
        yield worker_pb2.ListGenerationsResponse(generations=listed, incarnation=self.incarnation)

    async def fetch_result(
        self, engine_id: str, request_id: str, header: worker_pb2.Result | None = None
    ) -> protocol.FetchedResult:
        del engine_id, header
        self._check()
        return protocol.FetchedResult(
            header=self.held[request_id].message.result, data=bytearray(RESULT)
        )

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest
    ) -> worker_pb2.AckGenerationResponse:
        self._check()
        self.acknowledged.append(request.request_id)
        self.held.pop(request.request_id, None)
        return worker_pb2.AckGenerationResponse(is_released=True)

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest
    ) -> worker_pb2.CancelGenerationResponse:
        self._wish(request.request_id, "cancel")
        return worker_pb2.CancelGenerationResponse()

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest
    ) -> worker_pb2.PauseGenerationResponse:
        self._wish(request.request_id, "pause")
        return worker_pb2.PauseGenerationResponse()

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest
    ) -> worker_pb2.UnpauseGenerationResponse:
        self._wish(request.request_id, "unpause")
        return worker_pb2.UnpauseGenerationResponse()

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest
    ) -> worker_pb2.TakeCheckpointResponse:
        held = self._held(request.request_id)
        step = held.message.progress.step
        held.checkpoints[step] = checkpoint_bytes(request.request_id, step)
        return worker_pb2.TakeCheckpointResponse(checkpoint=self.info(request.request_id, step))

    async def fetch_checkpoint(
        self, engine_id: str, request_id: str, step: int = 0
    ) -> protocol.FetchedCheckpoint:
        del engine_id
        self.fetching += 1
        self.most_fetching = max(self.most_fetching, self.fetching)
        try:
            await self.may_fetch.wait()
            checkpoints = self._held(request_id).checkpoints
            found = step or max(checkpoints, default=0)
            if found not in checkpoints:
                raise errors.CheckpointNotFoundError("there is no such checkpoint")
            self.fetches.append((request_id, found))
            info = self.info(request_id, found)
            return protocol.FetchedCheckpoint(info=info, data=bytearray(checkpoints[found]))
        finally:
            self.fetching -= 1

    async def import_checkpoint(
        self,
        caller: worker_pb2.Caller,
        request_id: str,
        info: worker_pb2.CheckpointInfo,
        data: bytes | bytearray | memoryview,
    ) -> str:
        del caller, request_id
        self._check()
        if self.import_error is not None:
            raise self.import_error
        assert hashlib.sha256(data).hexdigest() == info.sha256
        self.imported[info.sha256] = bytes(data)
        return info.sha256

    async def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        del request
        raise errors.NotImplementedByWorkerError("a scripted worker does not drain")

    async def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        del request
        raise errors.NotImplementedByWorkerError("a scripted worker does not drain")

    async def call_method(
        self, request: worker_pb2.CallMethodRequest, timeout: float | None = None
    ) -> worker_pb2.CallMethodResponse:
        del request, timeout
        return worker_pb2.CallMethodResponse()

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest
    ) -> worker_pb2.LoadAdapterResponse:
        del request
        return worker_pb2.LoadAdapterResponse()

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest
    ) -> worker_pb2.UnloadAdapterResponse:
        del request
        return worker_pb2.UnloadAdapterResponse()

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest
    ) -> worker_pb2.ListAdaptersResponse:
        del request
        return worker_pb2.ListAdaptersResponse()

    async def close(self) -> None:
        """Other engines may come."""

    def _check(self) -> None:
        if self.is_gone or self.is_cut:
            raise errors.WorkerGoneError(f"worker {self.name!r} cannot be reached")

    def _held(self, request_id: str) -> Held:
        self._check()
        if request_id not in self.held:
            raise errors.GenerationNotFoundError(f"no generation {request_id!r}")
        return self.held[request_id]

    def _wish(self, request_id: str, wish: str) -> None:
        self._held(request_id).wishes.append(wish)


def checkpoint_bytes(request_id: str, step: int) -> bytes:
    """Return the checkpoint that every scripted worker takes."""
    return f"{request_id} after {step}".encode() * 10


class ScriptedFleet:
    """Some scripted workers; engines come and go."""

    def __init__(self, *workers: ScriptedWorker) -> None:
        self._loop = _loop.EngineLoop()  # Keeps the loop's thread through all engines.
        self.workers = {worker.name: worker for worker in workers}
        self.executors: list[linked.LinkedExecutor] = []

    def run(self, coroutine: Any) -> Any:
        """Run something on the loop."""
        return self._loop.run(coroutine, PATIENCE)

    def do(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call something on the loop."""

        async def once() -> None:
            function(*args, **kwargs)

        self.run(once())

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so; fails after a minute."""

        async def poll() -> None:
            async with asyncio.timeout(PATIENCE):
                while not condition():  # noqa: ASYNC110  # conditions of all kinds
                    await asyncio.sleep(0.002)

        self.run(poll())

    def add(self, worker: ScriptedWorker) -> None:
        """Let a worker appear."""
        self.workers[worker.name] = worker
        self.do(self._publish, self.executors[-1])

    def engine(self, **options: Any) -> kubediffusion.DiffusionEngine:
        """Build an engine over this fleet."""
        return kubediffusion.DiffusionEngine(
            **{
                "engine_id": "e",
                "distributed_executor_backend": self._executor_class(),
                "takeover_seconds": 0.05,
                **options,
            }
        )

    def close(self) -> None:
        self._loop.close()

    def _publish(self, executor: linked.LinkedExecutor) -> None:
        executor._roster.publish(list(self.workers.values()))

    def _executor_class(self) -> type[linked.LinkedExecutor]:
        fleet = self

        class FleetExecutor(linked.LinkedExecutor):
            """Yields the fleet's links."""

            def _connect(self, loop: _loop.EngineLoop) -> None:
                fleet.executors.append(self)
                fleet.do(fleet._publish, self)

            async def _disconnect(self) -> None:
                pass

        return FleetExecutor


@contextlib.contextmanager
def fleet(*workers: ScriptedWorker) -> Iterator[ScriptedFleet]:
    """Run some workers."""
    all_of_them = ScriptedFleet(*workers)
    try:
        yield all_of_them
    finally:
        all_of_them.close()

"""A client of a worker for tests, over gRPC or in the same process."""

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
from google.protobuf import duration_pb2

from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import chunks, status, values

PATIENCE = 120.0
"""Seconds after which a test stops waiting; it only ever takes that long when it fails."""

TERMINAL = {"succeeded", "failed", "cancelled", "handed_over"}


class Calls:
    """The calls of a channel, in snake_case, with our errors; as a runtime has them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)  # type: ignore[no-untyped-call] # generated

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, "".join(part.title() for part in name.split("_")))
        if name in ("watch_generations", "list_generations", "fetch_result", "fetch_checkpoint"):
            return lambda request: status.map_stream(method(request))

        if name == "import_checkpoint":
            return lambda requests: self._send(method, requests)

        async def call(request: Any) -> Any:
            with status.map_errors():
                return await method(request, timeout=PATIENCE)

        return call

    @staticmethod
    async def _send(method: Any, requests: Any) -> Any:
        with status.map_errors():
            return await method(requests, timeout=PATIENCE)


@dataclasses.dataclass
class Client:
    """One start of an engine."""

    calls: Any
    """A runtime, or the calls of a channel."""
    engine_id: str = "e"
    epoch: int = 1
    role: str = "ENGINE"

    @property
    def caller(self) -> worker_pb2.Caller:
        return worker_pb2.Caller(
            engine_id=self.engine_id,
            epoch=self.epoch,
            instance="i",
            role=f"ROLE_{self.role}",
        )

    def spec(
        self, *, prompt: str = "p", steps: int = 3, seed: int | None = None, **extra: object
    ) -> worker_pb2.GenerationSpec:
        return worker_pb2.GenerationSpec(
            prompt=prompt,
            num_inference_steps=steps,
            seed=seed,
            extra_args={name: values.encode(value) for name, value in extra.items()},
        )

    async def submit(
        self,
        request_id: str = "a",
        *,
        attempt: int = 1,
        priority: int = 0,
        spec: worker_pb2.GenerationSpec | None = None,
        reference: str = "",
        min_exactness: str = "UNSPECIFIED",
        **wanted: Any,
    ) -> worker_pb2.SubmitGenerationResponse:
        response: worker_pb2.SubmitGenerationResponse = await self.calls.submit_generation(
            worker_pb2.SubmitGenerationRequest(
                caller=self.caller,
                request_id=request_id,
                spec=spec or self.spec(**wanted),
                attempt=attempt,
                priority=priority,
                checkpoint_reference=reference,
                min_exactness=f"EXACTNESS_{min_exactness}",
            )
        )
        return response

    def watch(
        self,
        *request_ids: str,
        after: dict[str, int] | None = None,
        min_interval: float = 0.0,
        until_terminal: bool = False,
        previews: bool = False,
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        interval = duration_pb2.Duration()
        interval.FromNanoseconds(int(min_interval * 1e9))
        stream: AsyncIterator[worker_pb2.WatchGenerationsResponse] = self.calls.watch_generations(
            worker_pb2.WatchGenerationsRequest(
                caller=self.caller,
                request_ids=request_ids,
                after_sequences=after or {},
                min_interval=interval,
                until_terminal=until_terminal,
                previews=previews,
            )
        )
        return stream

    async def events(
        self, *request_ids: str, after: dict[str, int] | None = None, min_interval: float = 0.0
    ) -> list[worker_pb2.GenerationEvent]:
        """Return all events of some generations until they have ended."""
        async with asyncio.timeout(PATIENCE):
            stream = self.watch(
                *request_ids, after=after, min_interval=min_interval, until_terminal=True
            )
            return [event async for response in stream for event in response.events]

    async def end(self, request_id: str = "a") -> worker_pb2.GenerationEvent:
        """Wait for the end of a generation, and return the event that tells it."""
        return (await self.events(request_id))[-1]

    async def until(
        self, name: str, request_id: str = "a", *, step: int = 0
    ) -> worker_pb2.GenerationEvent:
        """Wait for an event of a name; for progress also of at least a step."""
        async with asyncio.timeout(PATIENCE):
            async for response in self.watch(request_id):
                for event in response.events:
                    if event.WhichOneof("event") == name and event.progress.step >= step:
                        return event
        raise AssertionError(f"no event {name!r}")

    async def fetch(self, request_id: str = "a", offset: int = 0) -> tuple[Any, bytes]:
        header, data = None, bytearray()
        async for message in self.calls.fetch_result(
            worker_pb2.FetchResultRequest(
                engine_id=self.engine_id, request_id=request_id, offset=offset
            )
        ):
            if isinstance(message, bytes):
                data += chunks.parse_data(message)
            elif message.HasField("header"):
                header = message.header
            else:
                data += message.data
        return header, bytes(data)

    async def result(self, request_id: str = "a") -> bytes:
        """Wait for a result, fetch it whole and check its digest."""
        event = await self.end(request_id)
        assert event.HasField("succeeded"), event
        header, data = await self.fetch(request_id)
        assert header.sha256 == hashlib.sha256(data).hexdigest()
        assert header == event.succeeded.result
        return data

    async def cancel(self, request_id: str = "a") -> worker_pb2.CancelGenerationResponse:
        response: worker_pb2.CancelGenerationResponse = await self.calls.cancel_generation(
            worker_pb2.CancelGenerationRequest(caller=self.caller, request_id=request_id)
        )
        return response

    async def acknowledge(self, request_id: str = "a") -> bool:
        response = await self.calls.ack_generation(
            worker_pb2.AckGenerationRequest(caller=self.caller, request_id=request_id)
        )
        return bool(response.is_released)

    async def pause(self, request_id: str = "a") -> str:
        """Ask for a pause; return the state that is answered."""
        response = await self.calls.pause_generation(
            worker_pb2.PauseGenerationRequest(caller=self.caller, request_id=request_id)
        )
        return _state(response.state)

    async def unpause(self, request_id: str = "a") -> str:
        response = await self.calls.unpause_generation(
            worker_pb2.UnpauseGenerationRequest(caller=self.caller, request_id=request_id)
        )
        return _state(response.state)

    async def take_checkpoint(self, request_id: str = "a") -> worker_pb2.CheckpointInfo:
        response: worker_pb2.TakeCheckpointResponse = await self.calls.take_checkpoint(
            worker_pb2.TakeCheckpointRequest(caller=self.caller, request_id=request_id)
        )
        return response.checkpoint

    async def fetch_checkpoint(
        self, request_id: str = "a", *, step: int = 0, offset: int = 0
    ) -> tuple[worker_pb2.CheckpointInfo, bytes]:
        header, data = worker_pb2.CheckpointInfo(), bytearray()
        async for message in self.calls.fetch_checkpoint(
            worker_pb2.FetchCheckpointRequest(
                engine_id=self.engine_id, request_id=request_id, step=step, offset=offset
            )
        ):
            if isinstance(message, bytes):
                data += chunks.parse_data(message)
            elif message.HasField("header"):
                header = message.header
            else:
                data += message.data
        return header, bytes(data)

    async def import_checkpoint(
        self,
        info: worker_pb2.CheckpointInfo,
        data: bytes,
        request_id: str = "a",
        *,
        piece: int = chunks.CHUNK_SIZE,
    ) -> str:
        """Bring a checkpoint; return what to submit with."""

        async def requests() -> AsyncIterator[worker_pb2.ImportCheckpointRequest]:
            yield worker_pb2.ImportCheckpointRequest(
                caller=self.caller, request_id=request_id, header=info
            )
            for start in range(0, len(data), piece):
                yield worker_pb2.ImportCheckpointRequest(data=data[start : start + piece])

        response = await self.calls.import_checkpoint(requests())
        return str(response.checkpoint_reference)

    async def drain(self, budget: float | None = None, policy: str = "UNSPECIFIED") -> str:
        """Ask for a drain; return the state that is answered."""
        request = worker_pb2.DrainRequest(caller=self.caller, policy=f"DRAIN_POLICY_{policy}")
        if budget is not None:
            request.budget.FromNanoseconds(int(budget * 1e9))
        return _worker_state((await self.calls.drain(request)).state)

    async def undrain(self) -> str:
        request = worker_pb2.UndrainRequest(caller=self.caller)
        return _worker_state((await self.calls.undrain(request)).state)

    async def until_state(self, state: str) -> None:
        """Wait until the worker is in a state."""
        async with asyncio.timeout(PATIENCE):
            async for response in self.watch():
                if response.state == worker_pb2.WorkerState.Value(f"WORKER_STATE_{state}"):
                    return

    async def listing(
        self, *, engine_id: str = "", states: Sequence[str] = ()
    ) -> list[worker_pb2.Generation]:
        request = worker_pb2.ListGenerationsRequest(
            engine_id=engine_id,
            states=[f"GENERATION_STATE_{state}" for state in states],
        )
        return [
            found
            async for response in self.calls.list_generations(request)
            for found in response.generations
        ]

    async def worker(self) -> worker_pb2.Worker:
        response: worker_pb2.GetWorkerResponse = await self.calls.get_worker(
            worker_pb2.GetWorkerRequest(engine_id=self.engine_id)
        )
        return response.worker

    async def serving(self) -> worker_pb2.Worker:
        """Wait until the worker serves."""
        async with asyncio.timeout(PATIENCE):
            async for response in self.watch():
                if response.state == worker_pb2.WORKER_STATE_SERVING:
                    break
        return await self.worker()

    async def call(self, method: str, *args: object, **kwargs: object) -> object:
        response = await self.calls.call_method(
            worker_pb2.CallMethodRequest(
                caller=self.caller,
                method=method,
                args=[values.encode(value) for value in args],
                kwargs={name: values.encode(value) for name, value in kwargs.items()},
            )
        )
        return values.decode(response.value)


def _state(number: worker_pb2.GenerationState) -> str:
    return worker_pb2.GenerationState.Name(number).removeprefix("GENERATION_STATE_")


def _worker_state(number: worker_pb2.WorkerState) -> str:
    return worker_pb2.WorkerState.Name(number).removeprefix("WORKER_STATE_")


def names(events: Sequence[worker_pb2.GenerationEvent]) -> list[str]:
    """Return what kind of events these are."""
    return [event.WhichOneof("event") or "" for event in events]

"""The link to a worker's runtime in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Protocol, TypeVar

from kubediffusion._links import assembly, deadlines, protocol
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

T = TypeVar("T")

ADDRESS = "in-process"


class Runtime(Protocol):
    """What the link needs of a worker's runtime: the calls of the wire, without the wire.

    Lives on the engine's loop and raises `kubediffusion_wire.errors`.
    """

    async def get_worker(
        self, request: worker_pb2.GetWorkerRequest, /
    ) -> worker_pb2.GetWorkerResponse:
        """Describe the worker."""
        ...

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest, /
    ) -> worker_pb2.SubmitGenerationResponse:
        """Accept a generation."""
        ...

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest, /
    ) -> worker_pb2.AckGenerationResponse:
        """Forget a generation."""
        ...

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest, /
    ) -> worker_pb2.CancelGenerationResponse:
        """Cancel a generation."""
        ...

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest, /
    ) -> worker_pb2.PauseGenerationResponse:
        """Park a generation."""
        ...

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest, /
    ) -> worker_pb2.UnpauseGenerationResponse:
        """Let a parked generation go on."""
        ...

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest, /
    ) -> worker_pb2.TakeCheckpointResponse:
        """Take a checkpoint."""
        ...

    async def import_checkpoint(
        self, requests: AsyncIterator[worker_pb2.ImportCheckpointRequest], /
    ) -> worker_pb2.ImportCheckpointResponse:
        """Store a checkpoint."""
        ...

    async def drain(self, request: worker_pb2.DrainRequest, /) -> worker_pb2.DrainResponse:
        """Take no new work and empty the worker."""
        ...

    async def undrain(self, request: worker_pb2.UndrainRequest, /) -> worker_pb2.UndrainResponse:
        """End a drain."""
        ...

    async def call_method(
        self, request: worker_pb2.CallMethodRequest, /
    ) -> worker_pb2.CallMethodResponse:
        """Call a method of the allow-list."""
        ...

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest, /
    ) -> worker_pb2.LoadAdapterResponse:
        """Load a LoRA adapter."""
        ...

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest, /
    ) -> worker_pb2.UnloadAdapterResponse:
        """Remove a LoRA adapter."""
        ...

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest, /
    ) -> worker_pb2.ListAdaptersResponse:
        """List the resident LoRA adapters."""
        ...

    def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest, /
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        """Replay and follow events."""
        ...

    def list_generations(
        self, request: worker_pb2.ListGenerationsRequest, /
    ) -> AsyncIterator[worker_pb2.ListGenerationsResponse]:
        """List the generations that are held."""
        ...

    def fetch_result(
        self, request: worker_pb2.FetchResultRequest, /
    ) -> AsyncIterator[worker_pb2.FetchResultResponse | bytes | memoryview]:
        """Read a result: a message with the header, then data as messages or as frames."""
        ...

    def fetch_checkpoint(
        self, request: worker_pb2.FetchCheckpointRequest, /
    ) -> AsyncIterator[worker_pb2.FetchCheckpointResponse | bytes | memoryview]:
        """Read a checkpoint, as with results."""
        ...


class InProcessLink:
    """Calls a runtime on the engine's own loop, with the deadlines of a real link.

    Args:
        name: The worker's.
        runtime: Stays the executor's; closing the link does not close it.
        limits: Of the unary calls.
    """

    address = ADDRESS

    def __init__(
        self, name: str, runtime: Runtime, *, limits: deadlines.Deadlines | None = None
    ) -> None:
        self._name = name
        self._runtime = runtime
        self._deadlines = limits or deadlines.Deadlines()
        self._is_gone = False
        self._is_closed = False

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._name

    @property
    def is_gone(self) -> bool:
        """Whether the runtime has failed for good."""
        return self._is_gone

    def mark_gone(self) -> None:
        """Take note that the runtime works no more; calls fail at once from now on."""
        self._is_gone = True

    async def get_worker(self, engine_id: str = "") -> worker_pb2.GetWorkerResponse:
        """Describe the worker."""
        request = worker_pb2.GetWorkerRequest(engine_id=engine_id)
        return await self._call(self._runtime.get_worker(request), self._deadlines.describe)

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest
    ) -> worker_pb2.SubmitGenerationResponse:
        """Accept a generation."""
        return await self._call(self._runtime.submit_generation(request), self._deadlines.submit)

    def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        """Replay and follow events, without a deadline."""
        return self._stream(self._runtime.watch_generations(request))

    def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncIterator[worker_pb2.ListGenerationsResponse]:
        """List the generations that are held."""
        return self._stream(self._runtime.list_generations(request))

    async def fetch_result(
        self, engine_id: str, request_id: str, header: worker_pb2.Result | None = None
    ) -> protocol.FetchedResult:
        """Copy a whole result into one buffer and check its sha256."""
        request = worker_pb2.FetchResultRequest(engine_id=engine_id, request_id=request_id)
        whole = assembly.Assembly(worker_pb2.FetchResultResponse)
        async for frame in self._stream(self._runtime.fetch_result(request)):
            whole.take(frame)
        found, data = await whole.verified()
        protocol.check_announced(header, found.header)
        return protocol.FetchedResult(header=found.header, data=data)

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest
    ) -> worker_pb2.AckGenerationResponse:
        """Forget a generation."""
        return await self._call(self._runtime.ack_generation(request), self._deadlines.control)

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest
    ) -> worker_pb2.CancelGenerationResponse:
        """Cancel a generation."""
        return await self._call(self._runtime.cancel_generation(request), self._deadlines.control)

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest
    ) -> worker_pb2.PauseGenerationResponse:
        """Park a generation."""
        return await self._call(self._runtime.pause_generation(request), self._deadlines.control)

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest
    ) -> worker_pb2.UnpauseGenerationResponse:
        """Let a parked generation go on."""
        return await self._call(self._runtime.unpause_generation(request), self._deadlines.control)

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest
    ) -> worker_pb2.TakeCheckpointResponse:
        """Take a checkpoint at the next boundary."""
        return await self._call(self._runtime.take_checkpoint(request), self._deadlines.checkpoint)

    async def fetch_checkpoint(
        self, engine_id: str, request_id: str, step: int = 0
    ) -> protocol.FetchedCheckpoint:
        """Copy a whole checkpoint into one buffer and check its sha256."""
        request = worker_pb2.FetchCheckpointRequest(
            engine_id=engine_id, request_id=request_id, step=step
        )
        whole = assembly.Assembly(worker_pb2.FetchCheckpointResponse)
        async for frame in self._stream(self._runtime.fetch_checkpoint(request)):
            whole.take(frame)
        found, data = await whole.verified()
        return protocol.FetchedCheckpoint(info=found.header, data=data)

    async def import_checkpoint(
        self,
        caller: worker_pb2.Caller,
        request_id: str,
        info: worker_pb2.CheckpointInfo,
        data: bytes | bytearray | memoryview,
    ) -> str:
        """Store a checkpoint in the runtime."""
        header = worker_pb2.ImportCheckpointRequest(
            caller=caller, request_id=request_id, header=info
        )
        answer = await self._call(
            self._runtime.import_checkpoint(assembly.messages(header, data)),
            self._deadlines.upload_of(data),
        )
        return answer.checkpoint_reference

    async def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        """Take no new work and empty the worker."""
        return await self._call(self._runtime.drain(request), self._deadlines.control)

    async def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        """End a drain."""
        return await self._call(self._runtime.undrain(request), self._deadlines.control)

    async def call_method(
        self, request: worker_pb2.CallMethodRequest, timeout: float | None = None
    ) -> worker_pb2.CallMethodResponse:
        """Call a method of the allow-list."""
        seconds = self._deadlines.method if timeout is None else timeout
        return await self._call(self._runtime.call_method(request), seconds)

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest
    ) -> worker_pb2.LoadAdapterResponse:
        """Load a LoRA adapter."""
        return await self._call(self._runtime.load_adapter(request), self._deadlines.adapter)

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest
    ) -> worker_pb2.UnloadAdapterResponse:
        """Remove a LoRA adapter."""
        return await self._call(self._runtime.unload_adapter(request), self._deadlines.adapter)

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest
    ) -> worker_pb2.ListAdaptersResponse:
        """List the resident LoRA adapters."""
        return await self._call(self._runtime.list_adapters(request), self._deadlines.control)

    async def close(self) -> None:
        """Refuse further calls; the runtime goes on."""
        self._is_closed = True

    async def _call(self, answer: Awaitable[T], timeout: float) -> T:
        try:
            self._check_usable()
        except errors.WorkerGoneError:
            if asyncio.iscoroutine(answer):
                answer.close()  # Else Python warns that it was never awaited.
            raise
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                return await answer
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise errors.RpcTimeoutError(
                f"worker {self._name!r} did not answer within {timeout} s"
            ) from error

    async def _stream(self, items: AsyncIterator[T]) -> AsyncIterator[T]:
        self._check_usable()
        try:
            async for item in items:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    def _check_usable(self) -> None:
        if self._is_gone:
            raise errors.WorkerGoneError(f"worker {self._name!r} has ended")
        if self._is_closed:
            raise errors.WorkerGoneError(f"the link to {self._name!r} was closed here")

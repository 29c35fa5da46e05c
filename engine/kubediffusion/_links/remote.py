"""The link to a worker in another process, over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol, TypeVar

from google.protobuf import message

from kubediffusion._links import deadlines, protocol
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import channels, chunks, downloads, errors, status

Answer = TypeVar("Answer", bound=message.Message)


class _Cancellable(Protocol):
    def cancel(self) -> bool: ...


class RemoteLink:
    """Talks to one address: bulk data has connections of its own, one each way.

    gRPC connects when a call needs it and again after a loss, so the link survives cuts
    and restarts of the worker. Build it on the event loop that will use it.

    Args:
        name: The worker's.
        address: `host:port` or `unix:/path`.
        tls: Mutual TLS; never used on a Unix socket.
        insecure: Allows plaintext to another machine.
        limits: Of the unary calls.

    Raises:
        InvalidRequestError: No such address, or plaintext that is not allowed.
        UntrustedPeerError: A TLS file cannot be read.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        tls: channels.TlsFiles | None = None,
        insecure: bool = False,
        limits: deadlines.Deadlines | None = None,
    ) -> None:
        self._name = name
        self._address = address
        self._deadlines = limits or deadlines.Deadlines()
        self._control = channels.open_channel(address, tls=tls, insecure=insecure)
        self._uploads = channels.open_channel(address, tls=tls, insecure=insecure, bulk=True)
        self._reader = downloads.Reader(address, tls=tls, insecure=insecure)
        self._under_way: set[_Cancellable] = set()
        self._is_gone = False
        self._is_closed = False

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._name

    @property
    def address(self) -> str:
        """`host:port` or `unix:/path`."""
        return self._address

    @property
    def is_gone(self) -> bool:
        """Whether the worker is known to be dead for good."""
        return self._is_gone

    def mark_gone(self) -> None:
        """Take note that the worker is dead for good; calls fail at once from now on."""
        self._is_gone = True

    async def get_worker(self, engine_id: str = "") -> worker_pb2.GetWorkerResponse:
        """Describe the worker."""
        return await self._call(
            "GetWorker",
            worker_pb2.GetWorkerRequest(engine_id=engine_id),
            worker_pb2.GetWorkerResponse,
            self._deadlines.describe,
        )

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest
    ) -> worker_pb2.SubmitGenerationResponse:
        """Hand a generation to the worker."""
        return await self._call(
            "SubmitGeneration",
            request,
            worker_pb2.SubmitGenerationResponse,
            self._deadlines.submit,
        )

    def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        """Replay and follow events, without a deadline."""
        return self._stream("WatchGenerations", request, worker_pb2.WatchGenerationsResponse)

    def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncIterator[worker_pb2.ListGenerationsResponse]:
        """List the generations that the worker holds."""
        return self._stream(
            "ListGenerations",
            request,
            worker_pb2.ListGenerationsResponse,
            self._deadlines.submit,
        )

    async def fetch_result(
        self, engine_id: str, request_id: str, header: worker_pb2.Result | None = None
    ) -> protocol.FetchedResult:
        """Fetch a whole result into one buffer, resuming where a stream breaks."""
        request = worker_pb2.FetchResultRequest(engine_id=engine_id, request_id=request_id)
        with self._calling():
            fetching = asyncio.ensure_future(self._reader.fetch(downloads.FETCH_RESULT, request))
            with self._noted(fetching):
                found, data = await fetching
        protocol.check_announced(header, found)
        return protocol.FetchedResult(header=found, data=data)

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest
    ) -> worker_pb2.AckGenerationResponse:
        """Let the worker forget a generation."""
        return await self._control_call("AckGeneration", request, worker_pb2.AckGenerationResponse)

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest
    ) -> worker_pb2.CancelGenerationResponse:
        """Ask for a cancel."""
        return await self._control_call(
            "CancelGeneration", request, worker_pb2.CancelGenerationResponse
        )

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest
    ) -> worker_pb2.PauseGenerationResponse:
        """Park a generation at its next boundary."""
        return await self._control_call(
            "PauseGeneration", request, worker_pb2.PauseGenerationResponse
        )

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest
    ) -> worker_pb2.UnpauseGenerationResponse:
        """Let a parked generation go on."""
        return await self._control_call(
            "UnpauseGeneration", request, worker_pb2.UnpauseGenerationResponse
        )

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest
    ) -> worker_pb2.TakeCheckpointResponse:
        """Take a checkpoint at the next boundary."""
        return await self._call(
            "TakeCheckpoint",
            request,
            worker_pb2.TakeCheckpointResponse,
            self._deadlines.checkpoint,
        )

    async def fetch_checkpoint(
        self, engine_id: str, request_id: str, step: int = 0
    ) -> protocol.FetchedCheckpoint:
        """Fetch a whole checkpoint into one buffer, resuming where a stream breaks."""
        request = worker_pb2.FetchCheckpointRequest(
            engine_id=engine_id, request_id=request_id, step=step
        )
        with self._calling():
            fetching = asyncio.ensure_future(
                self._reader.fetch(downloads.FETCH_CHECKPOINT, request)
            )
            with self._noted(fetching):
                info, data = await fetching
        return protocol.FetchedCheckpoint(info=info, data=data)

    async def import_checkpoint(
        self,
        caller: worker_pb2.Caller,
        request_id: str,
        info: worker_pb2.CheckpointInfo,
        data: bytes | bytearray | memoryview,
    ) -> str:
        """Store a checkpoint on the worker."""
        header = worker_pb2.ImportCheckpointRequest(
            caller=caller, request_id=request_id, header=info
        )
        with self._calling():
            sending = asyncio.ensure_future(
                chunks.send(self._uploads, header, data, timeout=self._deadlines.upload_of(data))
            )
            with self._noted(sending):
                return (await sending).checkpoint_reference

    async def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        """Let the worker take no new work and empty itself."""
        return await self._control_call("Drain", request, worker_pb2.DrainResponse)

    async def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        """Let a drained worker take work again."""
        return await self._control_call("Undrain", request, worker_pb2.UndrainResponse)

    async def call_method(
        self, request: worker_pb2.CallMethodRequest, timeout: float | None = None
    ) -> worker_pb2.CallMethodResponse:
        """Call a method of the worker's allow-list."""
        seconds = self._deadlines.method if timeout is None else timeout
        return await self._call("CallMethod", request, worker_pb2.CallMethodResponse, seconds)

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest
    ) -> worker_pb2.LoadAdapterResponse:
        """Load a LoRA adapter."""
        return await self._call(
            "LoadAdapter", request, worker_pb2.LoadAdapterResponse, self._deadlines.adapter
        )

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest
    ) -> worker_pb2.UnloadAdapterResponse:
        """Remove a LoRA adapter."""
        return await self._call(
            "UnloadAdapter", request, worker_pb2.UnloadAdapterResponse, self._deadlines.adapter
        )

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest
    ) -> worker_pb2.ListAdaptersResponse:
        """List the resident LoRA adapters."""
        return await self._control_call("ListAdapters", request, worker_pb2.ListAdaptersResponse)

    async def close(self) -> None:
        """Close both connections; calls under way fail with `WorkerGoneError`."""
        if self._is_closed:
            return
        self._is_closed = True
        # Before 1.84 gRPC leaves some of them waiting for ever when their channel is closed.
        for call in tuple(self._under_way):
            call.cancel()
        await self._control.close()
        await self._uploads.close()
        await self._reader.close()

    async def _control_call(
        self, method: str, request: message.Message, answer: type[Answer]
    ) -> Answer:
        return await self._call(method, request, answer, self._deadlines.control)

    async def _call(
        self, method: str, request: message.Message, answer: type[Answer], timeout: float
    ) -> Answer:
        with self._calling():
            call = self._control.unary_unary(
                _path(method),
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            answering = call(request, timeout=timeout)
            with self._noted(answering):
                response: Answer = await answering
            return response

    async def _stream(
        self,
        method: str,
        request: message.Message,
        answer: type[Answer],
        timeout: float | None = None,
    ) -> AsyncIterator[Answer]:
        with self._calling():
            call = self._control.unary_stream(
                _path(method),
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            stream = call(request, timeout=timeout)
            with self._noted(stream):
                async with contextlib.aclosing(status.map_stream(stream)) as items:
                    async for item in items:
                        yield item

    @contextlib.contextmanager
    def _noted(self, call: _Cancellable) -> Iterator[None]:
        """Know of a call while it is under way."""
        self._under_way.add(call)
        try:
            yield
        finally:
            self._under_way.discard(call)

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """Surround a call: refuse it where it cannot work, and translate what it raises."""
        if self._is_gone:
            raise errors.WorkerGoneError(f"worker {self._name!r} has ended")
        if self._is_closed:
            raise errors.WorkerGoneError(f"the connection to {self._name!r} was closed here")
        try:
            with status.map_errors():
                yield
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            # gRPC tells of a closed channel with the same exception as of a cancelled task.
            if self._is_closed and task is not None and not task.cancelling():
                raise errors.WorkerGoneError(
                    f"the connection to {self._name!r} was closed here"
                ) from error
            raise


def _path(method: str) -> str:
    return f"/kubediffusion.v1.WorkerService/{method}"

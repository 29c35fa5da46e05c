"""The one narrow interface between the engine and a worker.

Everything durable (journal, placement, retries, re-attachment) is built once, above
`WorkerLink`; an executor only decides which links there are and says so through a
`LinkSource`. All methods run on the engine's event loop and raise nothing but
`kubediffusion_wire.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kubediffusion_wire import errors

if TYPE_CHECKING:
    from kubediffusion_proto.v1 import worker_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedResult:
    """A complete result whose sha256 has been checked."""

    header: worker_pb2.Result
    """Describes the outputs and where in `data` each of them lies."""

    data: bytearray | memoryview
    """The bytes of all outputs, `header.size` of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedCheckpoint:
    """A complete checkpoint whose sha256 has been checked."""

    info: worker_pb2.CheckpointInfo
    """Its step, size and what it was taken with."""

    data: bytearray | memoryview
    """The file, `info.size` bytes."""


@runtime_checkable
class WorkerLink(Protocol):
    """A way to one worker: in this process, over gRPC, or through an actor's methods.

    A link stays usable until it is closed, also after its executor has stopped to list
    it. Its requests and answers are the messages of the wire; what a link cannot do it
    refuses with `NotImplementedByWorkerError`. Unary calls end by a deadline of the
    link's own with `RpcTimeoutError`; a watch has none.
    """

    @property
    def name(self) -> str:
        """The worker's name, unique within an executor at any one time."""
        ...

    @property
    def address(self) -> str:
        """Where the worker is, for people: "host:port", "unix:/path", "in-process"."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether the worker behind this link is known to be dead for good.

        True once its process has ended or its name belongs to another incarnation; calls
        then fail at once with `WorkerGoneError`. False says nothing about the worker.
        """
        ...

    async def get_worker(self, engine_id: str = "") -> worker_pb2.GetWorkerResponse:
        """Describe the worker, with the highest epoch it has seen of `engine_id`.

        An empty list of parameters means that the worker cannot tell which it accepts.
        """
        ...

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest
    ) -> worker_pb2.SubmitGenerationResponse:
        """Hand a generation to the worker; the same one twice is one generation."""
        ...

    def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        """Replay and follow events; the stream has no deadline."""
        ...

    def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncIterator[worker_pb2.ListGenerationsResponse]:
        """List the generations that the worker holds."""
        ...

    async def fetch_result(
        self, engine_id: str, request_id: str, header: worker_pb2.Result | None = None
    ) -> FetchedResult:
        """Fetch a whole result, resuming a broken transfer, and check its sha256.

        Args:
            engine_id: Owner of the generation.
            request_id: The generation.
            header: The result's header where it is known from an event; a transfer that
                announces another sha256 is refused.
        """
        ...

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest
    ) -> worker_pb2.AckGenerationResponse:
        """Let the worker forget a generation."""
        ...

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest
    ) -> worker_pb2.CancelGenerationResponse:
        """Ask for a cancel; the terminal event confirms it."""
        ...

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest
    ) -> worker_pb2.PauseGenerationResponse:
        """Park a generation at its next boundary."""
        ...

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest
    ) -> worker_pb2.UnpauseGenerationResponse:
        """Let a parked generation go on."""
        ...

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest
    ) -> worker_pb2.TakeCheckpointResponse:
        """Take a checkpoint at the next boundary; answered when it is stored."""
        ...

    async def fetch_checkpoint(
        self, engine_id: str, request_id: str, step: int = 0
    ) -> FetchedCheckpoint:
        """Fetch a whole checkpoint, resuming a broken transfer, and check its sha256.

        Args:
            engine_id: Owner of the generation.
            request_id: The generation.
            step: Of the checkpoint; 0: the newest.
        """
        ...

    async def import_checkpoint(
        self,
        caller: worker_pb2.Caller,
        request_id: str,
        info: worker_pb2.CheckpointInfo,
        data: bytes | bytearray | memoryview,
    ) -> str:
        """Store a checkpoint on the worker.

        Args:
            caller: Owner of the generation.
            request_id: The generation that will go on from it.
            info: As it was fetched with; the worker checks size and sha256.
            data: The file.

        Returns:
            The reference to submit with; the worker keeps it for a minute.
        """
        ...

    async def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        """Let the worker take no new work and empty itself."""
        ...

    async def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        """Let a drained worker take work again."""
        ...

    async def call_method(
        self, request: worker_pb2.CallMethodRequest, timeout: float | None = None
    ) -> worker_pb2.CallMethodResponse:
        """Call a method of the worker's allow-list.

        Args:
            request: Method and arguments.
            timeout: In seconds; None stands for the link's own deadline.
        """
        ...

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest
    ) -> worker_pb2.LoadAdapterResponse:
        """Load a LoRA adapter under a name."""
        ...

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest
    ) -> worker_pb2.UnloadAdapterResponse:
        """Remove a LoRA adapter."""
        ...

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest
    ) -> worker_pb2.ListAdaptersResponse:
        """List the resident LoRA adapters."""
        ...

    async def close(self) -> None:
        """Release the connection and never the worker; calls under way fail. Idempotent."""
        ...


@runtime_checkable
class PythonCaller(Protocol):
    """A link that can call methods with objects that have no form on the wire."""

    async def call_python(
        self,
        method: str,
        args: Sequence[Any],  # Any: whatever the worker's method takes and returns
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
    ) -> Any:
        """Call a method; the deadline is as with `WorkerLink.call_method`."""
        ...


class LinkSource(Protocol):
    """Tells which links an executor has."""

    def changes(self) -> AsyncIterator[tuple[WorkerLink, ...]]:
        """Yield the full set of links now and after every change, in the order of ranks.

        Changes in quick succession may be told as one. A link that left is not closed by
        the executor before its shutdown: whoever follows the changes closes it when
        nothing of interest is behind it any more. The same set again means that a worker
        behind one of the links may have been restarted. Ends when the executor is shut
        down.
        """
        ...


def check_announced(announced: worker_pb2.Result | None, found: worker_pb2.Result) -> None:
    """Refuse a result that is not the one an event told of.

    Raises:
        CorruptDataError: The digests differ.
    """
    if announced is not None and announced.sha256 != found.sha256:
        raise errors.CorruptDataError(
            f"an event announced a result with sha256 {announced.sha256!r:.80}; "
            f"found {found.sha256!r:.80}"
        )

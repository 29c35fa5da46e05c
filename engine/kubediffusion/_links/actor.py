"""The link to an object with the methods of a worker actor.

The other end is foreign code with `initialize`, `execute_rpc`, `generate`, `get_rank` and
`shutdown`, each sync or async and each optional. It knows nothing of events and retention,
so this link keeps that itself, and refuses what cannot be done: there is no progress, and a
generation that runs cannot be cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from kubediffusion import _background
from kubediffusion._links import deadlines, emulation, foreign_values, protocol
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, values

logger = logging.getLogger(__name__)

METHODS = ("initialize", "execute_rpc", "generate", "get_rank", "shutdown")


def is_actor(candidate: object) -> bool:
    """Tell whether an object has the methods that this link cannot do without."""
    return any(callable(getattr(candidate, name, None)) for name in ("generate", "execute_rpc"))


class ActorLink:
    """Runs generations one after the other through an actor's `generate`.

    Build it on the engine's loop. Closing it never calls the actor's `shutdown`: it belongs
    to somebody else.

    Args:
        name: The worker's.
        actor: See the module.
        address: For people.
        limits: Of the unary calls.
    """

    def __init__(
        self,
        name: str,
        actor: object,
        *,
        address: str = "",
        limits: deadlines.Deadlines | None = None,
    ) -> None:
        self._name = name
        self._actor = actor
        self._address = address or f"object {type(actor).__name__}"
        self._deadlines = limits or deadlines.Deadlines()
        self._memory = emulation.Emulation()
        self._state = worker_pb2.WORKER_STATE_STARTING
        self._problem: errors.KubediffusionError | None = None
        self._work = asyncio.Event()
        self._is_closed = False
        self._runner = asyncio.get_running_loop().create_task(self._run())
        self._initialized = asyncio.Event()

    @property
    def name(self) -> str:
        """The worker's name."""
        return self._name

    @property
    def address(self) -> str:
        """What is called, for people."""
        return self._address

    @property
    def is_gone(self) -> bool:
        """False: nobody tells."""
        return False

    async def initialized(self) -> None:
        """Wait until `initialize` has returned, for better or worse."""
        await self._initialized.wait()

    async def rank(self) -> int | None:
        """Return what the actor's `get_rank` says; None where it says nothing.

        Raises:
            RpcTimeoutError: It does not return.
        """
        if not self._has("get_rank"):
            return None
        rank = await self._call("get_rank", timeout=self._deadlines.control)
        return rank if isinstance(rank, int) else None

    async def get_worker(self, engine_id: str = "") -> worker_pb2.GetWorkerResponse:
        """Describe the worker, as far as anything is known."""
        self._check_open()
        worker = worker_pb2.Worker(
            name=self._name,
            incarnation=self._memory.incarnation,
            state=self._state,
            load=self._memory.load(),
            capabilities=worker_pb2.Capabilities(
                resume=worker_pb2.RESUME_CAPABILITY_RESTART,
                encodings=[worker_pb2.ENCODING_RAW],
            ),
        )
        return worker_pb2.GetWorkerResponse(
            worker=worker, engine_epoch=self._memory.epoch(engine_id)
        )

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest
    ) -> worker_pb2.SubmitGenerationResponse:
        """Queue a generation.

        Raises:
            WorkerFailedError: The actor's `initialize` failed.
            InvalidRequestError: It asks for what the actor cannot do.
        """
        self._check_open()
        if self._problem is not None:
            raise self._problem
        if not self._has("generate"):
            raise errors.NotImplementedByWorkerError(f"{self._address} has no generate()")
        foreign_values.request_of(request)  # Refused now rather than when its turn comes.
        record, is_created = self._memory.submit(request)
        self._work.set()
        return worker_pb2.SubmitGenerationResponse(
            generation=record.generation,
            is_created=is_created,
            incarnation=self._memory.incarnation,
        )

    async def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        """Replay and follow events: queued, started, and the last one."""
        self._check_open()
        is_first = True
        async for events in self._memory.watch(request):
            yield worker_pb2.WatchGenerationsResponse(
                events=events,
                load=self._memory.load(),
                state=self._state,
                incarnation=self._memory.incarnation if is_first else "",
                is_live=True,
            )
            is_first = False
        self._check_open()  # A watch ends by itself or because the link was closed.

    async def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncIterator[worker_pb2.ListGenerationsResponse]:
        """List what is kept here."""
        self._check_open()
        yield worker_pb2.ListGenerationsResponse(
            generations=[
                record.generation
                for record in self._memory.records(request.engine_id)
                if not request.states or record.generation.state in request.states
            ],
            incarnation=self._memory.incarnation,
        )

    async def fetch_result(
        self, engine_id: str, request_id: str, header: worker_pb2.Result | None = None
    ) -> protocol.FetchedResult:
        """Return a result."""
        self._check_open()
        record = self._memory.find((engine_id, request_id))
        if record.generation.state != worker_pb2.GENERATION_STATE_SUCCEEDED:
            raise errors.ResultNotReadyError(f"generation {request_id!r} has no result")
        protocol.check_announced(header, record.generation.result)
        return protocol.FetchedResult(header=record.generation.result, data=bytearray(record.data))

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest
    ) -> worker_pb2.AckGenerationResponse:
        """Forget a generation."""
        self._check_open()
        self._memory.fence(request.caller)
        is_released = self._memory.forget((request.caller.engine_id, request.request_id))
        return worker_pb2.AckGenerationResponse(is_released=is_released)

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest
    ) -> worker_pb2.CancelGenerationResponse:
        """Cancel a generation that waits.

        Raises:
            NotImplementedByWorkerError: It runs; foreign code cannot be interrupted.
        """
        self._check_open()
        self._memory.fence(request.caller)
        record = self._memory.find((request.caller.engine_id, request.request_id))
        if record.generation.state == worker_pb2.GENERATION_STATE_RUNNING:
            raise errors.NotImplementedByWorkerError(
                f"generation {request.request_id!r} runs in {self._address}, which cannot be "
                "interrupted"
            )
        if record.is_queued:
            self._memory.cancel(record)
        return worker_pb2.CancelGenerationResponse(state=record.generation.state)

    async def call_method(
        self, request: worker_pb2.CallMethodRequest, timeout: float | None = None
    ) -> worker_pb2.CallMethodResponse:
        """Call the actor's `execute_rpc`; the answer must have a form on the wire."""
        args = [values.decode(value) for value in request.args]
        kwargs = {name: values.decode(value) for name, value in request.kwargs.items()}
        answer = await self.call_python(request.method, args, kwargs, timeout)
        return worker_pb2.CallMethodResponse(value=values.encode(answer, field="answer"))

    async def call_python(
        self,
        method: str,
        args: Sequence[Any],  # Any: between the user and the user's actor
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
    ) -> Any:
        """Call the actor's `execute_rpc`; what it raises comes out as it is."""
        self._check_open()
        seconds = self._deadlines.method if timeout is None else timeout
        return await self._call("execute_rpc", method, tuple(args), dict(kwargs), timeout=seconds)

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest
    ) -> worker_pb2.PauseGenerationResponse:
        """Refuse."""
        raise self._unknown("pausing", request)

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest
    ) -> worker_pb2.UnpauseGenerationResponse:
        """Refuse."""
        raise self._unknown("pausing", request)

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest
    ) -> worker_pb2.TakeCheckpointResponse:
        """Refuse."""
        raise self._unknown("checkpoints", request)

    async def fetch_checkpoint(
        self, engine_id: str, request_id: str, step: int = 0
    ) -> protocol.FetchedCheckpoint:
        """Refuse."""
        raise self._unknown("checkpoints", engine_id, request_id, step)

    async def import_checkpoint(
        self,
        caller: worker_pb2.Caller,
        request_id: str,
        info: worker_pb2.CheckpointInfo,
        data: bytes | bytearray | memoryview,
    ) -> str:
        """Refuse."""
        raise self._unknown("checkpoints", caller, request_id, info, data)

    async def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        """Refuse."""
        raise self._unknown("draining", request)

    async def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        """Refuse."""
        raise self._unknown("draining", request)

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest
    ) -> worker_pb2.LoadAdapterResponse:
        """Refuse."""
        raise self._unknown("loading adapters", request)

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest
    ) -> worker_pb2.UnloadAdapterResponse:
        """Refuse."""
        raise self._unknown("loading adapters", request)

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest
    ) -> worker_pb2.ListAdaptersResponse:
        """List none."""
        return worker_pb2.ListAdaptersResponse()

    async def close(self) -> None:
        """End what waits here; a call into the actor that runs is left alone."""
        self._is_closed = True
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)
        self._memory.close()

    async def _run(self) -> None:
        await self._initialize()
        while self._problem is None:
            record = self._memory.next_queued()
            if record is None:
                self._work.clear()
                await self._work.wait()
            else:
                await self._generate(record)

    async def _initialize(self) -> None:
        try:
            answer = await self._call("initialize") if self._has("initialize") else None
            if isinstance(answer, Mapping) and answer.get("status") == "error":
                detail = answer.get("error") or answer.get("message") or "no reason"
                raise errors.WorkerFailedError(f"initialize() reported an error: {detail}")
            self._state = worker_pb2.WORKER_STATE_SERVING
        except Exception as error:  # noqa: BLE001  # foreign code
            self._state = worker_pb2.WORKER_STATE_FAILED
            self._problem = translated(error, errors.WorkerFailedError)
            logger.warning("a foreign worker failed to initialize", extra={"worker": self._name})
        finally:
            self._initialized.set()

    async def _generate(self, record: emulation.Record) -> None:
        submission = record.submission
        self._memory.start(record)
        try:
            if submission.HasField("deadline") and submission.deadline.ToSeconds() < time.time():
                raise errors.DeadlineExceededError("the deadline passed while it waited")
            request = foreign_values.request_of(submission)
            answer = await self._call("generate", [request])
            result, data = await asyncio.to_thread(foreign_values.result_of, answer, submission)
        except Exception as error:  # noqa: BLE001  # foreign code
            self._memory.fail(record, translated(error, errors.PipelineError))
        else:
            self._memory.succeed(record, result, data)

    async def _call(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        function = getattr(self._actor, method, None)
        if not callable(function):
            raise errors.NotImplementedByWorkerError(f"{self._address} has no {method}()")
        return await _background.call(function, *args, timeout=timeout)

    def _has(self, method: str) -> bool:
        return callable(getattr(self._actor, method, None))

    def _unknown(self, what: str, *request: object) -> errors.KubediffusionError:
        del request
        return errors.NotImplementedByWorkerError(f"{self._address} knows no {what}")

    def _check_open(self) -> None:
        if self._is_closed:
            raise errors.WorkerGoneError(f"the link to {self._name!r} was closed here")


def translated(
    error: Exception, otherwise: type[errors.KubediffusionError]
) -> errors.KubediffusionError:
    """Return an error of ours as it is, any other as one of the given class."""
    if isinstance(error, errors.KubediffusionError):
        return error
    return otherwise(f"{type(error).__name__}: {error!s:.300}")

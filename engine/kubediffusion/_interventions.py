"""What people ask of generations and workers while they are at it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kubediffusion import _events, _stimuli, _tracker, errors
from kubediffusion_proto.v1 import worker_pb2

if TYPE_CHECKING:
    from kubediffusion import _core, _record, _session
    from kubediffusion._links import protocol

T = TypeVar("T")

LOOK_SECONDS = 0.2
"""Between two looks at where a generation is, if nothing is heard of it."""

POLICIES = {
    "finish": worker_pb2.DRAIN_POLICY_FINISH,
    "checkpoint": worker_pb2.DRAIN_POLICY_CHECKPOINT,
    "finish-then-checkpoint": worker_pb2.DRAIN_POLICY_FINISH_THEN_CHECKPOINT,
}
"""How a worker can be emptied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint that was taken."""

    request_id: str
    worker: str
    """Where it was taken."""
    step: int
    """Steps that were done."""
    size: int
    """In bytes."""
    sha256: str
    """Of the file, hexadecimal."""
    fingerprint: str
    """What going on from it must be done with, for equal bits."""


class Interventions:
    """Carries wishes to the workers that they concern.

    Args:
        core: Knows who has what.
    """

    def __init__(self, core: _core.Core) -> None:
        self._core = core

    async def pause(self, record: _record.Record) -> None:
        """Have a generation parked after the step under way.

        One that no worker has is not given to any. The journal knows of it, so that it rests
        on after a restart, and on another worker.

        Raises:
            NotResumableError: It has ended, or its worker cannot park it.
        """
        check_unfinished(record)
        request = worker_pb2.PauseGenerationRequest(
            caller=self._core.caller, request_id=record.request_id
        )
        self._core.feed(record, _stimuli.PauseAsked())
        try:
            seated = await self._at_its_worker(
                record, lambda link: link.pause_generation(request), or_none=True
            )
        except errors.KubediffusionError:
            self._core.feed(record, _stimuli.UnpauseAsked())
            raise
        if seated is None and record.state is not _events.GenerationState.PARKED:
            record.state = _events.GenerationState.PARKED
            record.note("parked", "")

    async def unpause(self, record: _record.Record) -> None:
        """Let a parked generation go on.

        Raises:
            NotResumableError: It has ended.
        """
        check_unfinished(record)
        request = worker_pb2.UnpauseGenerationRequest(
            caller=self._core.caller, request_id=record.request_id
        )
        is_waiting = record.tracker.phase is _tracker.Phase.WAITING
        if is_waiting and record.tracker.is_paused:
            record.state = _events.GenerationState.PENDING
            record.note("unpaused", "")
        self._core.feed(record, _stimuli.UnpauseAsked())
        self._core.pump()
        if not is_waiting:
            await self._at_its_worker(
                record, lambda link: link.unpause_generation(request), or_none=True
            )

    async def checkpoint(self, record: _record.Record) -> CheckpointInfo:
        """Have a checkpoint taken after the step under way, and wait for it.

        Raises:
            NotResumableError: It has ended, or cannot be saved in its state.
        """
        request = worker_pb2.TakeCheckpointRequest(
            caller=self._core.caller, request_id=record.request_id
        )

        async def take(link: protocol.WorkerLink) -> CheckpointInfo:
            seat = record.tracker.seat
            taken = (await link.take_checkpoint(request)).checkpoint
            if seat is not None:
                # Only here it is safe from what happens to the worker.
                await self._core.keeper.obtain(record, seat, taken.sha256)
            return CheckpointInfo(
                request_id=record.request_id,
                worker=link.name,
                step=taken.step,
                size=taken.size,
                sha256=taken.sha256,
                fingerprint=taken.fingerprint,
            )

        taken = await self._at_its_worker(record, take)
        assert taken is not None, "it waits until a worker has it"
        return taken

    async def drain(self, worker: str, policy: str, budget: float | None) -> str:
        """Let a worker take no new work and empty itself; return its state.

        Raises:
            InvalidRequestError: There is no such worker or policy.
        """
        request = worker_pb2.DrainRequest(caller=self._operator(), policy=policy_of(policy))
        if budget is not None:
            if not 0 <= budget < 1e9:
                raise errors.InvalidRequestError.at("budget", f"must be 0 or more; found {budget}")
            request.budget.FromNanoseconds(round(budget * 1e9))
        return state_name((await self._session(worker).link.drain(request)).state)

    async def undrain(self, worker: str) -> str:
        """Let a drained worker take work again; return its state.

        Raises:
            InvalidRequestError: There is no such worker.
        """
        request = worker_pb2.UndrainRequest(caller=self._operator())
        return state_name((await self._session(worker).link.undrain(request)).state)

    def _operator(self) -> worker_pb2.Caller:
        # A worker may be shared: whoever drains it speaks for no engine.
        return worker_pb2.Caller(engine_id=self._core.engine_id, role=worker_pb2.ROLE_OPERATOR)

    def _session(self, worker: str) -> _session.Session:
        sessions = {session.link.name: session for session in self._core.sessions}
        if worker not in sessions:
            known = ", ".join(sorted(sessions)) or "none"
            raise errors.InvalidRequestError.at(
                "worker", f"must be the name of a connected worker ({known}); found {worker!r:.80}"
            )
        return sessions[worker]

    async def _at_its_worker(
        self,
        record: _record.Record,
        call: Callable[[protocol.WorkerLink], Awaitable[T]],
        *,
        or_none: bool = False,
    ) -> T | None:
        """Call the worker that has a generation, wherever it is by then.

        Args:
            record: The generation.
            call: Calls the worker.
            or_none: Return None if no worker has it, else wait until one does.
        """
        while True:
            self._core.check_running()
            check_unfinished(record)
            tracker = record.tracker
            if tracker.phase is _tracker.Phase.WAITING and or_none:
                return None
            if tracker.phase is _tracker.Phase.RUNNING and tracker.seat is not None:
                session = self._core.session_at(tracker.seat)
                if session is not None:
                    # What ends with its worker or is just being moved will be elsewhere soon.
                    with contextlib.suppress(
                        errors.WorkerGoneError, errors.GenerationNotFoundError
                    ):
                        return await call(session.link)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(record.changed(), LOOK_SECONDS)


def check_unfinished(record: _record.Record) -> None:
    """Refuse what cannot be done after the end.

    Raises:
        NotResumableError: The generation has ended.
    """
    if record.tracker.phase in (_tracker.Phase.FETCHING, _tracker.Phase.ENDED):
        raise errors.NotResumableError(f"generation {record.request_id!r} has ended")


def policy_of(name: str) -> worker_pb2.DrainPolicy:
    """Return a policy by its name.

    Raises:
        InvalidRequestError: There is none.
    """
    policy = POLICIES.get(name.replace("_", "-"))
    if policy is None:
        raise errors.InvalidRequestError.at(
            "policy", f"must be one of {', '.join(POLICIES)}; found {name!r:.80}"
        )
    return policy


def state_name(state: worker_pb2.WorkerState) -> str:
    """Return the state of a worker as users read it."""
    return worker_pb2.WorkerState.Name(state).removeprefix("WORKER_STATE_").lower()

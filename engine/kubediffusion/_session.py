"""The engine's conversation with one worker: describe, compare, watch; again after a loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Protocol

from kubediffusion import _placement, _stimuli
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

if TYPE_CHECKING:
    from kubediffusion._links import protocol

logger = logging.getLogger(__name__)

MAX_PAUSE = 1.0
"""Seconds between two attempts to reach a worker, at most."""

CLOSED_SECONDS = 0.5
"""For which a worker is left alone that refused a request without a hint."""


_RESUMING = (worker_pb2.RESUME_CAPABILITY_EXACT, worker_pb2.RESUME_CAPABILITY_CLOSE)


class Host(Protocol):
    """What a session needs of the engine's core."""

    @property
    def engine_id(self) -> str:
        """Whose generations are meant."""
        ...

    @property
    def caller(self) -> worker_pb2.Caller:
        """Who this engine is; only after `may_begin`."""
        ...

    def take_report(self, epoch: int) -> None:
        """Take note of the highest epoch that a worker knows."""
        ...

    async def may_begin(self) -> None:
        """Wait until the epoch of this start is settled."""
        ...

    def take_life(self, session: Session, former: str) -> None:
        """Take note of which life a worker lives, and which one it lived before."""
        ...

    def expected(self, incarnation: str) -> list[str]:
        """Return the ids that a worker is known to have accepted."""
        ...

    def compare(
        self,
        session: Session,
        listed: Sequence[worker_pb2.Generation],
        expected: Sequence[str],
    ) -> None:
        """Merge what a worker holds with what the engine knows."""
        ...

    def watch_request(self, incarnation: str) -> worker_pb2.WatchGenerationsRequest:
        """Return what to ask the worker's stream of events for."""
        ...

    def take_events(self, session: Session, events: Sequence[worker_pb2.GenerationEvent]) -> None:
        """Take note of what happened on a worker."""
        ...

    def take_change(self, session: Session) -> None:
        """Take note that a worker may take other work than before."""
        ...

    def lose(self, session: Session, *, is_dead: bool) -> None:
        """Give up what is on a worker: it is dead, or out of reach for too long."""
        ...

    def is_needed(self, session: Session) -> bool:
        """Tell whether anything of ours is on a worker."""
        ...

    def fence(self, error: errors.StaleEpochError) -> None:
        """Stop for good: a newer start of this engine has taken over."""
        ...


class Session:
    """One worker behind one link, for as long as anything of it is of interest.

    Args:
        link: Is closed at the end.
        host: The engine's core.
        takeover_seconds: Out of reach for so long, a worker is given up.
    """

    def __init__(self, link: protocol.WorkerLink, host: Host, *, takeover_seconds: float) -> None:
        self.link = link
        self.is_listed = True
        """Whether the executor has the link; else no new work goes there."""
        self.is_attached = False
        """Whether what the worker holds is known and its events come in."""
        self.is_introduced = asyncio.Event()
        """Set once the worker has described itself, or has failed to a few times."""
        self.is_settled = asyncio.Event()
        """Set once the worker was attached, or cannot be for now."""
        self.worker = worker_pb2.Worker()
        self.load = worker_pb2.WorkerLoad()
        self.problem: errors.KubediffusionError | None = None
        """Why the worker is out of reach; None while it is not."""
        self.is_hung = False
        """Whether its compute thread does not move; nothing new goes there then."""
        self.active: tuple[str, str] | None = None
        """Incarnation, and the request that was last heard to compute there."""
        self.unreported = 0
        self.in_flight = 0
        self.loading: set[str] = set()
        """Adapters that the worker will have in a moment."""
        self._host = host
        self._takeover_seconds = takeover_seconds
        self._closed_until = 0.0
        self._failures = 0
        self._wake = asyncio.Event()
        self._takeover: asyncio.TimerHandle | None = None
        self._started = self._ended = 0

    @property
    def seat(self) -> _stimuli.Seat:
        """Where this worker's generations sit."""
        return _stimuli.Seat(self.link.name, self.worker.incarnation)

    def candidate(self) -> _placement.Candidate:
        """Return what placement has to know."""
        is_open = time.monotonic() >= self._closed_until
        is_serving = self.worker.state == worker_pb2.WORKER_STATE_SERVING
        return _placement.Candidate(
            name=self.link.name,
            model=self.worker.model.id,
            adapters=frozenset(adapter.name for adapter in self.worker.adapters),
            loading=frozenset(self.loading),
            is_serving=self._is_hopeful and is_open and is_serving,
            queued_seconds=self.load.queued_seconds,
            queued=max(0, self.load.queued + self.unreported - self._started),
            max_queued=self.worker.limits.max_queued,
            unreported=self.unreported - self._ended,
            in_flight=self.in_flight,
            fingerprint=self.worker.fingerprint,
            can_resume=self.worker.capabilities.resume in _RESUMING,
            is_hopeful=self._is_hopeful,
        )

    @property
    def _is_hopeful(self) -> bool:
        states = (worker_pb2.WORKER_STATE_STARTING, worker_pb2.WORKER_STATE_SERVING)
        is_within_reach = self.is_listed and self.is_attached and not self.is_hung
        return is_within_reach and self.worker.state in states

    def close_for(self, seconds: float | None) -> float:
        """Leave the worker alone for a while; return for how long."""
        pause = CLOSED_SECONDS if seconds is None else min(max(seconds, 0.05), 30.0)
        self._closed_until = time.monotonic() + pause
        return pause

    def was_active(self, request_id: str, incarnation: str) -> bool:
        """Tell whether a generation may have held the compute thread of a life at its end.

        Generations take turns from step to step: it did not if another one was heard later.
        """
        active = self.active
        return active is None or active[0] != incarnation or active[1] == request_id

    def note_started(self) -> None:
        """Take note that a generation has left the worker's queue."""
        self._started += 1

    def note_ended(self) -> None:
        """Take note that a generation has ended on the worker."""
        self._ended += 1

    def poke(self) -> None:
        """Try to reach the worker at once: there is news of it."""
        self._wake.set()

    async def run(self) -> None:
        """Converse until the worker is gone or of no more interest."""
        try:
            while not self.link.is_gone and self._is_of_interest():
                await self._converse()
                self._detach()
                if not self.link.is_gone:
                    await self._pause()
            if self.link.is_gone:
                self._host.lose(self, is_dead=True)
        finally:
            self._stop_takeover()
            self.is_attached = False
            self.is_introduced.set()
            self.is_settled.set()
            await self.link.close()

    async def refresh(self) -> None:
        """Ask the worker to describe itself again.

        Raises:
            KubediffusionError: It cannot be reached.
        """
        answer = await self.link.get_worker(self._host.engine_id)
        if answer.worker.incarnation == self.worker.incarnation:
            self.worker = answer.worker
            self._take_load(answer.worker.load)
            self._host.take_change(self)

    def _is_of_interest(self) -> bool:
        return self.is_listed or self._host.is_needed(self)

    async def _converse(self) -> None:
        try:
            await self._introduce()
            await self._host.may_begin()
            await self._attach()
            await self._watch()
        except errors.StaleEpochError as error:
            self._host.fence(error)
        except errors.KubediffusionError as error:
            if self._failures == 0:
                logger.info(
                    "worker is out of reach",
                    extra={"worker": self.link.name, "cause": error.message},
                )
            self.problem = error

    async def _introduce(self) -> None:
        answer = await self.link.get_worker(self._host.engine_id)
        former = self.worker.incarnation
        self.is_hung = self.is_hung and former == answer.worker.incarnation
        self.worker = answer.worker
        self._take_load(answer.worker.load)
        self._host.take_report(answer.engine_epoch)
        self.is_introduced.set()
        self._host.take_life(self, former)

    async def _attach(self) -> None:
        incarnation = self.worker.incarnation
        # Taken before the question: what is accepted meanwhile need not be in the answer.
        expected = self._host.expected(incarnation)
        request = worker_pb2.ListGenerationsRequest(engine_id=self._host.engine_id)
        listed: list[worker_pb2.Generation] = []
        async for page in self.link.list_generations(request):
            self._check_life(page.incarnation)
            listed.extend(page.generations)
        self._host.compare(self, listed, expected)
        self._stop_takeover()
        self.is_attached = True
        self.problem = None
        self._failures = 0
        self.is_settled.set()
        self._host.take_change(self)

    async def _watch(self) -> None:
        stream = self.link.watch_generations(self._host.watch_request(self.worker.incarnation))
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(stream, AsyncGenerator):
                await stack.enter_async_context(contextlib.aclosing(stream))
            async for response in stream:
                await self._take_response(response)
        raise errors.WorkerGoneError(f"worker {self.link.name!r} ended the stream of events")

    async def _take_response(self, response: worker_pb2.WatchGenerationsResponse) -> None:
        self._check_life(response.incarnation)
        if response.events:
            self._host.take_events(self, response.events)
        if response.HasField("load"):
            self._take_load(response.load)
            self._host.take_change(self)
        if response.state and response.state != self.worker.state:
            await self._take_state(response.state)

    async def _take_state(self, state: worker_pb2.WorkerState) -> None:
        if state == worker_pb2.WORKER_STATE_SERVING:
            # Only now the worker knows what its pipeline accepts.
            self.worker = (await self.link.get_worker(self._host.engine_id)).worker
        self.worker.state = state
        self._host.take_change(self)

    def _take_load(self, load: worker_pb2.WorkerLoad) -> None:
        self.load = load
        # Those whose answer is awaited are in no report yet.
        self.unreported = self.in_flight
        self._started = self._ended = 0

    def _check_life(self, incarnation: str) -> None:
        if incarnation and incarnation != self.worker.incarnation:
            raise errors.WorkerGoneError(f"worker {self.link.name!r} has been restarted")

    def _detach(self) -> None:
        if self.is_attached:
            self.is_attached = False
            self._host.take_change(self)
        if self._takeover is None:
            loop = asyncio.get_running_loop()
            self._takeover = loop.call_later(self._takeover_seconds, self._give_up)

    def _give_up(self) -> None:
        # The handle stays, so that a worker is given up once for each time it is lost.
        self._host.lose(self, is_dead=False)

    def _stop_takeover(self) -> None:
        if self._takeover is not None:
            self._takeover.cancel()
            self._takeover = None

    async def _pause(self) -> None:
        """Wait before the next attempt, for less time where there is news of the worker."""
        self._failures += 1
        if self._failures >= 3:
            self.is_introduced.set()
            self.is_settled.set()
        pause = _placement.backoff(self._failures, random.random())
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), min(pause, MAX_PAUSE))

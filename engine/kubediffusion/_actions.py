"""Carrying out what the trackers decide, call by call, on workers.

Every action ends by feeding its outcome back as a stimulus. None of them decides anything
about the life of a request.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from kubediffusion import _placement, _stimuli, _submission, _tracker
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

if TYPE_CHECKING:
    from kubediffusion import _checkpoints, _delivery, _record, _session

logger = logging.getLogger(__name__)

MAX_TRIES = 4
"""Of an acknowledgement, a cancel, or a transfer that arrives damaged, in one life of a link;
after a new contact with the worker it is compared anyway."""

MAX_FETCHES = 4
"""Transfers from one worker at a time."""

ASK_SECONDS = 0.2
"""Between two looks whether a worker that left an answer open is back."""


class Host(Protocol):
    """What actions need of the engine's core."""

    @property
    def engine_id(self) -> str:
        """Whose generations are meant."""
        ...

    @property
    def caller(self) -> worker_pb2.Caller:
        """Who this engine is."""
        ...

    def session_at(self, seat: _stimuli.Seat) -> _session.Session | None:
        """Return the session with a worker in a certain life."""
        ...

    def feed(self, record: _record.Record, stimulus: _stimuli.Stimulus) -> None:
        """Tell a tracker what happened and carry out what it says."""
        ...

    def take_listed(
        self, record: _record.Record, seat: _stimuli.Seat, generation: worker_pb2.Generation
    ) -> None:
        """Take note of how a worker describes a generation."""
        ...

    def pump(self) -> None:
        """Look for workers for the requests that wait."""
        ...

    def fence(self, error: errors.StaleEpochError) -> None:
        """Stop for good."""
        ...


class Actions:
    """Starts calls to workers as tasks.

    Args:
        host: The engine's core.
        delivery: Takes results.
        shelf: Has checkpoints.
    """

    def __init__(
        self, host: Host, delivery: _delivery.Delivery, shelf: _checkpoints.Shelf
    ) -> None:
        self._host = host
        self._delivery = delivery
        self._shelf = shelf
        self._tasks: set[asyncio.Task[None]] = set()
        self._long: set[asyncio.Task[None]] = set()
        self._fetching: dict[str, asyncio.Semaphore] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, is_long: bool = False) -> None:
        """Run something beside everything else; what is long is not waited for at the end."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        if is_long:
            self._long.add(task)
        task.add_done_callback(self._finished)

    def submit(self, record: _record.Record, seat: _stimuli.Seat, attempt: int) -> None:
        """Hand a request to a worker."""
        session = self._host.session_at(seat)
        if session is None:
            self.ask(record, seat)
            return
        submission = _submission.Submission(
            self._host, self._shelf, session, record, seat, attempt
        )
        # Counted before the next request is placed.
        session.in_flight += 1
        session.unreported += 1
        self.spawn(submission.run())

    def ask(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        """Find out whether a worker that left an answer open still lives."""
        self.spawn(self._ask(record, seat), is_long=True)

    def fetch(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        """Get a result."""
        self.spawn(self._fetch(record, seat), is_long=True)

    def cancel(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        """Ask a worker to cancel."""
        self.spawn(self._cancel(record, seat))

    def pause(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        """Ask a worker to let a generation rest."""
        self.spawn(self._pause(record, seat))

    def acknowledge(self, request_id: str, seat: _stimuli.Seat) -> None:
        """Let a worker forget a generation."""
        self.spawn(self._acknowledge(request_id, seat))

    def forget_life(self, incarnation: str) -> None:
        """Drop what is kept for a life that is over."""
        self._fetching.pop(incarnation, None)

    async def wind_down(self, budget: float) -> None:
        """Give single calls that are under way some time to end; cancel the rest."""
        for task in self._long:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=budget)
            for task in late:
                task.cancel()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._long.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("action failed", exc_info=task.exception())

    async def _ask(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        tries = 0
        while _is_open(record, seat, _tracker.Phase.SUBMITTING):
            tries += 1
            await asyncio.sleep(min(_placement.backoff(tries, random.random()), ASK_SECONDS))
            session = self._host.session_at(seat)
            if session is None or not session.is_attached:
                continue  # Its session knows first whether it is back, or gone.
            try:
                answer = await session.link.get_worker(self._host.engine_id)
            except errors.KubediffusionError:
                continue
            if answer.worker.incarnation == seat.incarnation:
                self._host.feed(record, _stimuli.Reached(seat))
                return

    async def _fetch(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        slots = self._fetching.setdefault(seat.incarnation, asyncio.Semaphore(MAX_FETCHES))
        damaged = 0
        while _is_open(record, seat, _tracker.Phase.FETCHING):
            session = self._host.session_at(seat)
            try:
                if session is not None:
                    async with slots:
                        await self._fetch_once(session, record, seat)
                    return
            except errors.CorruptDataError as error:
                damaged += 1
                if damaged >= MAX_TRIES:
                    self._host.feed(record, _stimuli.FetchFailed(seat, error))
                    return
            except errors.RetryElsewhereError:
                pass  # Until the worker is back, or given up.
            except errors.KubediffusionError as error:
                self._host.feed(record, _stimuli.FetchFailed(seat, error))
                return
            await asyncio.sleep(ASK_SECONDS)

    async def _fetch_once(
        self, session: _session.Session, record: _record.Record, seat: _stimuli.Seat
    ) -> None:
        engine_id = self._host.engine_id
        header = record.announced.get(seat.incarnation)
        fetched = await session.link.fetch_result(engine_id, record.request_id, header)
        record.is_kept = await self._delivery.keep(record, fetched)
        self._host.feed(record, _stimuli.Fetched(seat))

    async def _cancel(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        request = worker_pb2.CancelGenerationRequest(
            caller=self._host.caller, request_id=record.request_id
        )
        for tries in range(1, MAX_TRIES + 1):
            session = self._host.session_at(seat)
            if session is None:
                return
            try:
                await session.link.cancel_generation(request)
            except errors.StaleEpochError as error:
                self._host.fence(error)
            except _UNKNOWN_THERE:
                self._host.feed(record, _stimuli.Missing(seat))
            except errors.RetryElsewhereError:
                await asyncio.sleep(_placement.backoff(tries + 2, random.random()))
                continue
            except errors.KubediffusionError as error:
                logger.warning(
                    "worker does not cancel",
                    extra={"generation": record.request_id, "cause": error.message},
                )
            return

    async def _pause(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        request = worker_pb2.PauseGenerationRequest(
            caller=self._host.caller, request_id=record.request_id
        )
        session = self._host.session_at(seat)
        if session is None or not record.tracker.is_paused:
            return
        try:
            await session.link.pause_generation(request)
            if not record.tracker.is_paused:  # The user has thought better of it meanwhile.
                await session.link.unpause_generation(
                    worker_pb2.UnpauseGenerationRequest(
                        caller=self._host.caller, request_id=record.request_id
                    )
                )
        except errors.StaleEpochError as error:
            self._host.fence(error)
        except errors.KubediffusionError as error:
            logger.warning(
                "worker does not pause",
                extra={"generation": record.request_id, "cause": error.message},
            )

    async def _acknowledge(self, request_id: str, seat: _stimuli.Seat) -> None:
        request = worker_pb2.AckGenerationRequest(caller=self._host.caller, request_id=request_id)
        for tries in range(1, MAX_TRIES + 1):
            session = self._host.session_at(seat)
            if session is None:
                return
            try:
                await session.link.ack_generation(request)
            except errors.StaleEpochError as error:
                self._host.fence(error)
            except errors.RetryElsewhereError:
                await asyncio.sleep(_placement.backoff(tries + 2, random.random()))
                continue
            except errors.KubediffusionError as error:
                logger.warning(
                    "worker does not take an acknowledgement",
                    extra={"generation": request_id, "cause": error.message},
                )
            return


_UNKNOWN_THERE = (
    errors.GenerationNotFoundError,
    errors.AlreadyAcknowledgedError,
    errors.EvictedError,
)


def _is_open(record: _record.Record, seat: _stimuli.Seat, phase: _tracker.Phase) -> bool:
    return record.tracker.phase is phase and record.tracker.seat == seat

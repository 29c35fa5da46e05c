"""The engine's core: what holds sessions, records and journal together.

Lives on the event loop. It decides nothing by itself: trackers decide about requests,
placement about workers, the merge about what a worker turns out to hold.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, assert_never

from kubediffusion import (
    _acks,
    _actions,
    _beginning,
    _checkpoints,
    _dispatch,
    _fleet,
    _hangs,
    _keeper,
    _ledger,
    _lora,
    _news,
    _outcomes,
    _reattach,
    _record,
    _session,
    _stimuli,
    _tracker,
    errors,
)
from kubediffusion.executors import failures
from kubediffusion_proto.v1 import worker_pb2

if TYPE_CHECKING:
    from kubediffusion import _delivery, _settings
    from kubediffusion._links import protocol

logger = logging.getLogger(__name__)

HOUSEKEEPING_SECONDS = 60.0

CLOSE_SECONDS = 2.0
"""That calls under way get when the engine closes."""


class Core:
    """One engine, on the loop's thread.

    Args:
        settings: The frozen configuration.
        ledger: The requests.
        delivery: The results.
        instance: A uuid of this start.
        checkpoints: Where checkpoints are kept; None: in memory.
        on_loss: Called for each life of a worker that the engine loses.
    """

    def __init__(
        self,
        settings: _settings.EngineSettings,
        ledger: _ledger.Ledger,
        delivery: _delivery.Delivery,
        *,
        instance: str,
        checkpoints: _checkpoints.CheckpointFiles | None,
        on_loss: Callable[[failures.WorkerFailure], None],
    ) -> None:
        self.settings = settings
        self.caller = worker_pb2.Caller(
            engine_id=settings.engine_id, instance=instance, role=worker_pb2.ROLE_ENGINE
        )
        self.snapshot: tuple[worker_pb2.Worker, ...] = ()
        """The workers that are attached; replaced as a whole, for other threads to read."""
        self.stopped: errors.KubediffusionError | None = None
        """Why nothing works any more; None while it does."""
        self._ledger = ledger
        self._delivery = delivery
        shelf = _checkpoints.Shelf(settings.checkpoint, checkpoints, ledger.write)
        self.keeper = _keeper.Keeper(self, shelf)
        self._actions = _actions.Actions(self, delivery, shelf)
        self._acks = _acks.Acknowledgements(self._actions.acknowledge, self._retained_bytes)
        self._fleet = _fleet.Fleet(self, takeover_seconds=settings.takeover_seconds)
        self._dispatcher = _dispatch.Dispatcher(self._fleet, self.feed, self._may_give_out)
        self._outcomes = _outcomes.Outcomes(
            ledger=ledger,
            delivery=delivery,
            actions=self._actions,
            acks=self._acks,
            dispatcher=self._dispatcher,
            keeper=self.keeper,
            fleet=self._fleet,
        )
        self._services: list[asyncio.Task[None]] = []
        self._adapters = _lora.Adapters(settings.adapters, self.caller, self._actions.spawn)
        self._beginning = _beginning.Beginning(ledger.journal)
        self._on_loss = on_loss

    @property
    def engine_id(self) -> str:
        """Whose generations these are."""
        return self.settings.engine_id

    # ------------------------------------------------------------ life

    def start(self, source: protocol.LinkSource) -> None:
        """Recall the journal and follow the workers."""
        records = self._ledger.recall()
        self.keeper.shelf.recall(records, self._ledger.journal.checkpoints())
        for record in records:
            self._schedule_deadline(record)
            if record.tracker.phase is _tracker.Phase.WAITING:
                if not record.tracker.is_paused:
                    self._dispatcher.add(record)
            elif record.tracker.phase is _tracker.Phase.RECALLED:
                self._expect_again(record)
        self._serve(self._follow(source))
        self._serve(self._keep_house())
        self._serve(_hangs.HangWatch(self, self.settings).run())

    async def stop(self) -> None:
        """End all conversations; workers keep their work. Bounded and idempotent."""
        self._halt(errors.EngineClosedError("the engine was closed"))
        self._acks.flush()
        for task in self._services:
            task.cancel()
        await self._actions.wind_down(CLOSE_SECONDS)
        self._fleet.cancel()
        await self._fleet.closed(CLOSE_SECONDS)
        self._delivery.close()

    def fence(self, error: errors.StaleEpochError) -> None:
        """Stop for good: a newer start of this engine has taken over."""
        if self.stopped is None:
            logger.error("a newer start of this engine took over", extra={"cause": error.message})
            self._halt(error)
            self._fleet.cancel()

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, is_long: bool = False) -> None:
        """Run something beside everything else; what is long is not waited for at the end."""
        self._actions.spawn(coroutine, is_long=is_long)

    def _serve(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something for as long as the engine lives."""
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(_log_failure)
        self._services.append(task)

    def _halt(self, error: errors.KubediffusionError) -> None:
        if self.stopped is None:
            self.stopped = error
            for record in self._ledger.all():
                record.wake()

    def check_running(self) -> None:
        """Refuse calls after the end.

        Raises:
            EngineClosedError: The engine was closed.
            StaleEpochError: A newer start has taken over.
        """
        if self.stopped is not None:
            raise type(self.stopped)(self.stopped.message)

    async def _follow(self, source: protocol.LinkSource) -> None:
        is_first = True
        async for links in source.changes():
            if self.stopped is not None:
                return
            self._fleet.follow(links)
            self.pump()
            if is_first:
                is_first = False
                self._serve(self._begin(self._fleet.sessions))

    async def _begin(self, first: Sequence[_session.Session]) -> None:
        """Take an epoch above all that are known, then let work go out."""
        self.caller.epoch = await self._beginning.take_epoch(first)
        self._beginning.has_begun.set()
        await self._beginning.settle(first)
        self.pump()

    async def _keep_house(self) -> None:
        while self.stopped is None:
            self._delivery.remove(self._ledger.prune())
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    def session_at(self, seat: _stimuli.Seat) -> _session.Session | None:
        """Return the session with a worker in a certain life."""
        return self._fleet.at(seat)

    # ------------------------------------------------------------ what sessions tell

    def take_report(self, epoch: int) -> None:
        """Take note of the highest epoch that a worker knows."""
        self._beginning.take_report(epoch)

    async def may_begin(self) -> None:
        """Wait until the epoch of this start is settled."""
        await self._beginning.has_begun.wait()

    def take_life(self, session: _session.Session, former: str) -> None:
        """Bury what sat on earlier lives of a worker."""
        incarnation = session.worker.incarnation
        if former and former != incarnation:
            self._acks.drop(former)
            self._actions.forget_life(former)
            self._tell_loss(session.link.name, former, "was started again")
        for record in self._ledger.unfinished():
            for seat in _seats(record):
                if seat.worker == session.link.name and seat.incarnation != incarnation:
                    was_active = session.was_active(record.request_id, seat.incarnation)
                    self.feed(record, _stimuli.Lost(seat, was_active))

    def lose(self, session: _session.Session, *, is_dead: bool) -> None:
        """Give up what is on a worker."""
        logger.warning(
            "worker is given up",
            extra={"worker": session.link.name, "is_dead": is_dead},
        )
        other = self._fleet.at(session.seat)
        if other is not None and other is not session and other.is_attached:
            return  # The same life is within reach over another link.
        seconds = self.settings.takeover_seconds
        reason = "is gone" if is_dead else f"was out of reach for {seconds:g} s"
        self._tell_loss(*session.seat, reason)
        for record in self._ledger.unfinished():
            for seat in _seats(record):
                if seat != session.seat and seat.worker != session.link.name:
                    continue
                if is_dead:
                    was_active = session.was_active(record.request_id, seat.incarnation)
                    self.feed(record, _stimuli.Lost(seat, was_active))
                else:
                    self.feed(record, _stimuli.Unreachable(seat))

    def _tell_loss(self, worker: str, incarnation: str, reason: str) -> None:
        if incarnation:  # Else it has never been within reach.
            self._on_loss(
                failures.WorkerFailure(
                    worker=worker, incarnation=incarnation, reason=reason, is_replaced=False
                )
            )

    def expected(self, incarnation: str) -> list[str]:
        """Return the ids that a worker is known to have accepted."""
        phases = (
            _tracker.Phase.RUNNING,
            _tracker.Phase.RECALLED,
            _tracker.Phase.SALVAGING,
            _tracker.Phase.FETCHING,
        )
        return [
            record.request_id
            for record in self._ledger.unfinished()
            if record.tracker.phase in phases
            and record.tracker.seat is not None
            and record.tracker.seat.incarnation == incarnation
        ]

    def compare(
        self,
        session: _session.Session,
        listed: Sequence[worker_pb2.Generation],
        expected: Sequence[str],
    ) -> None:
        """Merge what a worker holds with what the engine knows."""
        decisions = _reattach.merge(
            listed,
            known={record.request_id: record.digest for record in self._ledger.unfinished()},
            ended={each.request_id for each in listed if self._ledger.has_ended(each.request_id)},
            expected=expected,
        )
        for decision in decisions:
            self._decide(session.seat, decision)

    def _decide(self, seat: _stimuli.Seat, decision: _reattach.Decision) -> None:
        verdict, request_id, generation = decision
        record = self._ledger.get(request_id)
        if record is None and generation is not None and verdict is _reattach.Verdict.ADOPT:
            record = self._ledger.adopt(generation, seat)
        if record is None:
            # It has ended and left the memory: only its worker does not know yet.
            self._actions.acknowledge(request_id, seat)
            return
        match verdict:
            case _reattach.Verdict.RESUBMIT:
                self.feed(record, _stimuli.Missing(seat))
            case _reattach.Verdict.CONFLICT:
                error = errors.RequestConflictError(
                    f"request id {request_id!r} is in use for another request on worker "
                    f"{seat.worker!r}; choose a new id"
                )
                self.feed(record, _stimuli.Contradicted(error))
            case _reattach.Verdict.FORGET:
                self._forget_again(record, seat)
            case (
                _reattach.Verdict.WATCH
                | _reattach.Verdict.FETCH
                | _reattach.Verdict.SETTLE
                | _reattach.Verdict.ADOPT
            ):
                if generation is not None:
                    self.take_listed(record, seat, generation)
            case _:
                assert_never(verdict)

    def _forget_again(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        if not self._acks.holds(record.request_id, seat):
            self._actions.acknowledge(record.request_id, seat)

    def take_listed(
        self, record: _record.Record, seat: _stimuli.Seat, generation: worker_pb2.Generation
    ) -> None:
        """Take note of how a worker describes a generation."""
        _news.note_listing(record, seat, generation)
        stimulus = _news.of_listing(seat, generation)
        if stimulus is not None:
            self.feed(record, stimulus)
            _news.note_listing(record, seat, generation)

    def watch_request(self, incarnation: str) -> worker_pb2.WatchGenerationsRequest:
        """Return what to ask the worker's stream of events for."""
        request = worker_pb2.WatchGenerationsRequest(
            caller=self.caller, previews=self.settings.previews
        )
        request.min_interval.FromNanoseconds(round(self.settings.progress_interval * 1e9))
        for record in self._ledger.all():
            sequence = record.sequences.get(incarnation)
            if sequence:
                request.after_sequences[record.request_id] = sequence
        return request

    def take_events(
        self, session: _session.Session, events: Sequence[worker_pb2.GenerationEvent]
    ) -> None:
        """Take note of what happened on a worker."""
        seat = session.seat
        for event in events:
            record = self._ledger.get(event.request_id) or self._unknown(seat, event)
            if record is None or event.sequence <= record.sequences.get(seat.incarnation, 0):
                continue
            record.sequences[seat.incarnation] = event.sequence
            if session.is_hung:
                session.is_hung = False
                self.pump()
            kind = event.WhichOneof("event")
            if kind == "started":
                session.note_started()
                self.pump()
            elif kind in _news.TERMINAL:
                session.note_ended()
            if kind in ("started", "resumed", "progress"):
                session.active = seat.incarnation, event.request_id
            if kind == "checkpointed":
                self._announce(record, seat, event.checkpointed)
            if kind is not None:
                _news.note_event(record, seat, kind, event)
                stimulus = _news.of_event(seat, kind, event)
                if stimulus is not None:
                    self.feed(record, stimulus)

    def _announce(
        self, record: _record.Record, seat: _stimuli.Seat, told: worker_pb2.CheckpointedEvent
    ) -> None:
        if record.tracker.seat == seat:
            self.keeper.announce(record, _keeper.Wanted(seat, told.size, told.sha256))

    def _unknown(
        self, seat: _stimuli.Seat, event: worker_pb2.GenerationEvent
    ) -> _record.Record | None:
        """Adopt a generation that turns up in the stream."""
        if self._ledger.has_ended(event.request_id):
            return None
        generation = worker_pb2.Generation(
            engine_id=event.engine_id, request_id=event.request_id, attempt=event.attempt
        )
        generation.submit_time.CopyFrom(event.time)
        return self._ledger.adopt(generation, seat)

    def take_change(self, session: _session.Session) -> None:
        """Take note that a worker may take other work than before."""
        self.snapshot = tuple(each.worker for each in self._fleet.attached)
        if session.is_attached and session.worker.state == worker_pb2.WORKER_STATE_SERVING:
            self._adapters.load_missing(session)
        self.pump()

    def is_needed(self, session: _session.Session) -> bool:
        """Tell whether anything of ours is on a worker."""
        incarnation = session.worker.incarnation
        return self._acks.holds_any(incarnation) or any(
            record.tracker.seat is not None and record.tracker.seat.incarnation == incarnation
            for record in self._ledger.unfinished()
        )

    # ------------------------------------------------------------ requests

    def take(self, orders: Sequence[_record.Order]) -> list[_record.Record]:
        """Take requests; they are in the journal when this returns.

        Raises:
            RequestConflictError: An id stands for another request.
            QueueFullError: There are too many unfinished ones.
            JournalError: They cannot be written down; none of them was taken.
        """
        records, fresh = self._ledger.take(orders)
        for record in fresh:
            self._dispatcher.add(record)
            self._schedule_deadline(record)
        self.pump()
        return records

    def give_out(self, record: _record.Record) -> None:
        """Take note that the user was given an outcome."""
        if self._ledger.give_out(record):
            self._acks.release(record.request_id)

    async def settled(self) -> None:
        """Wait until the workers have said what they hold, or do not answer."""
        await self._beginning.settled()

    def _schedule_deadline(self, record: _record.Record) -> None:
        if record.deadline is not None:
            delay = max(0.0, record.deadline - time.time())
            loop = asyncio.get_running_loop()
            loop.call_later(delay, self.feed, record, _stimuli.DeadlinePassed())

    def _expect_again(self, record: _record.Record) -> None:
        """Give up the worker of an earlier start if it does not turn up."""

        def give_up() -> None:
            seat = record.tracker.seat
            if record.tracker.phase is _tracker.Phase.RECALLED and seat is not None:
                self.feed(record, _stimuli.Unreachable(seat))

        asyncio.get_running_loop().call_later(self.settings.takeover_seconds, give_up)

    # ------------------------------------------------------------ instructions

    def feed(self, record: _record.Record, stimulus: _stimuli.Stimulus) -> None:
        """Tell a tracker what happened and carry out what it says."""
        if self.stopped is not None:
            return  # What is under way belongs to the next start.
        for instruction in record.tracker.handle(stimulus):
            self._outcomes.carry_out(record, instruction)

    def unfinished(self) -> Iterator[_record.Record]:
        """Return all requests that have not ended."""
        return self._ledger.unfinished()

    def pump(self) -> None:
        """Look for workers for the requests that wait."""
        self._dispatcher.pump()

    def _may_give_out(self) -> bool:
        return self.stopped is None and self._beginning.has_settled.is_set()

    # ------------------------------------------------------------ workers

    @property
    def sessions(self) -> tuple[_session.Session, ...]:
        """The conversations with workers, in the executor's order."""
        return self._fleet.sessions

    async def load_adapter(self, name: str, adapter: _lora.Adapter) -> None:
        """Load an adapter on every worker, also on those that come later.

        Raises:
            KubediffusionError: The first worker that could not; others may have.
        """
        self.check_running()
        await self._adapters.load(self._fleet.attached, name, adapter)

    async def unload_adapter(self, name: str) -> bool:
        """Remove an adapter from every worker; tell whether any had it."""
        self.check_running()
        return await self._adapters.unload(self._fleet.attached, name)

    def _retained_bytes(self, seat: _stimuli.Seat) -> int:
        session = self.session_at(seat)
        return 0 if session is None else session.worker.limits.max_retained_bytes


def _seats(record: _record.Record) -> list[_stimuli.Seat]:
    """Return all seats at which a request may be alive."""
    seat = record.tracker.seat
    return [*record.tracker.strays, *([] if seat is None else [seat])]


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("part of the engine failed", exc_info=task.exception())

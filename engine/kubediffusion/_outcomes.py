"""What becomes of the trackers' decisions: each instruction at the part that carries it out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, assert_never

from kubediffusion import _changes, _events, _instructions, _stimuli, errors

if TYPE_CHECKING:
    from kubediffusion import (
        _acks,
        _actions,
        _delivery,
        _dispatch,
        _fleet,
        _keeper,
        _ledger,
        _record,
    )


class Outcomes:
    """Carries out instructions.

    Args:
        ledger: The requests, and their journal.
        delivery: The results.
        actions: Calls workers.
        acks: Holds acknowledgements back.
        dispatcher: Finds workers.
        keeper: Gets checkpoints.
        fleet: The workers.
    """

    def __init__(
        self,
        *,
        ledger: _ledger.Ledger,
        delivery: _delivery.Delivery,
        actions: _actions.Actions,
        acks: _acks.Acknowledgements,
        dispatcher: _dispatch.Dispatcher,
        keeper: _keeper.Keeper,
        fleet: _fleet.Fleet,
    ) -> None:
        self._ledger = ledger
        self._delivery = delivery
        self._actions = actions
        self._acks = acks
        self._dispatcher = dispatcher
        self._keeper = keeper
        self._fleet = fleet

    def carry_out(  # noqa: C901  # a table
        self, record: _record.Record, instruction: _instructions.Instruction
    ) -> None:
        """Do what a tracker says."""
        match instruction:
            case _instructions.Queue(failures):
                self._dispatcher.add(record, failures)
            case _instructions.Submit(seat, attempt):
                self._actions.submit(record, seat, attempt)
            case _instructions.Ask(seat):
                self._actions.ask(record, seat)
            case _instructions.Cancel(seat):
                self._actions.cancel(record, seat)
            case _instructions.Pause(seat):
                self._actions.pause(record, seat)
            case _instructions.Salvage(seat, sha256):
                self._keeper.salvage(record, seat, sha256)
            case _instructions.DropCheckpoint():
                self._drop_checkpoint(record)
            case _instructions.Fetch(seat):
                record.worker = seat.worker
                self._actions.fetch(record, seat)
            case _instructions.Ack(seat):
                self._acknowledge(record, seat)
            case _instructions.WriteEnded():
                self._end(record, instruction)
            case _instructions.Publish(ending, error):
                self._publish(record, ending, error)
            case _:
                self._write(record, instruction)

    def _write(self, record: _record.Record, instruction: _instructions.Writing) -> None:
        """Put into the journal what is no end."""
        request_id = record.request_id
        match instruction:
            case _instructions.WriteWaiting(attempt, strikes, deaths):
                evidence = json.dumps(deaths)
                change = _changes.Waiting(request_id, attempt, strikes, evidence)
                self._ledger.write(record, change)
                self._move(record)
            case _instructions.WritePlaced(seat, attempt):
                self._ledger.write(record, _changes.Placed(request_id, *seat, attempt))
            case _instructions.WriteAccepted(seat):
                record.worker = seat.worker
                self._ledger.write(record, _changes.Accepted(request_id, *seat))
            case _instructions.WriteCancelling():
                self._ledger.write(record, _changes.Cancelling(request_id))
            case _instructions.WritePaused(is_paused):
                self._ledger.write(record, _changes.Paused(request_id, is_paused))
            case _:
                assert_never(instruction)

    def _move(self, record: _record.Record) -> None:
        if record.state is not _events.GenerationState.PENDING:
            record.note("moved", record.worker)
        record.state = _events.GenerationState.PENDING
        record.progress = None
        record.waiting_for = ""

    def _drop_checkpoint(self, record: _record.Record) -> None:
        if record.resuming is not None:
            self._keeper.shelf.drop(record, record.resuming)

    def _end(self, record: _record.Record, instruction: _instructions.WriteEnded) -> None:
        is_written = self._ledger.end(record, instruction)
        record.final_seat = instruction.seat
        is_success = instruction.ending is _stimuli.Ending.SUCCEEDED
        is_stored = record.is_kept if is_success else self._ledger.journal.is_durable
        record.is_kept = is_written and is_stored
        self._keeper.forget(record)
        record.resuming = None
        if record.header is not None:
            self._dispatcher.learn(record.header.metrics.compute_seconds)

    def _acknowledge(self, record: _record.Record, seat: _stimuli.Seat) -> None:
        """Acknowledge now what is safe here, and later what only its worker remembers."""
        is_safe = record.is_kept or record.is_delivered or record.tracker.is_cancelling
        if is_safe or seat != record.final_seat:
            self._actions.acknowledge(record.request_id, seat)
        else:
            size = record.header.size if record.header is not None else 0
            self._acks.hold(record.request_id, seat, size)

    def _publish(
        self,
        record: _record.Record,
        ending: _stimuli.Ending,
        error: errors.KubediffusionError | None,
    ) -> None:
        record.announced.clear()
        record.is_delivered = record.tracker.is_cancelling
        record.publish(ending, error)
        self._ledger.publish(record)
        for old in self._ledger.retired():
            self._delivery.forget(old)
        self._fleet.reap()

"""What a worker tells of a generation, as a stimulus for its tracker, and for its user."""

from __future__ import annotations

import time

from kubediffusion import _events, _record, _stimuli
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
"""Kinds of events that end a generation with a word for its user."""


def of_event(
    seat: _stimuli.Seat, kind: str, event: worker_pb2.GenerationEvent
) -> _stimuli.Stimulus | None:
    """Return what an event of a stream means; None where it changes nothing."""
    match kind:
        case "started":
            return _stimuli.Progressed(seat, 0, 0)
        case "progress":
            return _stimuli.Progressed(seat, event.progress.step, event.progress.total)
        case "succeeded":
            return _stimuli.Finished(seat, _stimuli.Ending.SUCCEEDED)
        case "failed":
            error = errors.from_message(event.failed.error)
            return _stimuli.Finished(seat, _stimuli.Ending.FAILED, error)
        case "cancelled":
            return _stimuli.Finished(seat, _stimuli.Ending.CANCELLED, attempt=event.attempt)
        case "resumed":
            return _stimuli.Resumed(seat, event.resumed.from_step)
        case "parked":
            return _stimuli.PauseAsked(seat)
        case "unpaused":
            return _stimuli.UnpauseAsked(seat)
        case "handed_over":
            checkpoint = event.handed_over.checkpoint
            has_one = event.handed_over.HasField("checkpoint")
            return _stimuli.HandedOver(seat, is_safe=not has_one, sha256=checkpoint.sha256)
        case _:
            return None


def of_listing(seat: _stimuli.Seat, generation: worker_pb2.Generation) -> _stimuli.Stimulus | None:
    """Return what an entry of a listing means; None for a state of a newer worker."""
    if generation.state in _events.STATES_BY_WIRE:
        return _stimuli.Listed(seat)
    match generation.state:
        case worker_pb2.GENERATION_STATE_SUCCEEDED:
            return _stimuli.Finished(seat, _stimuli.Ending.SUCCEEDED)
        case worker_pb2.GENERATION_STATE_FAILED:
            error = errors.from_message(generation.error)
            return _stimuli.Finished(seat, _stimuli.Ending.FAILED, error)
        case worker_pb2.GENERATION_STATE_CANCELLED:
            attempt = generation.attempt
            return _stimuli.Finished(seat, _stimuli.Ending.CANCELLED, attempt=attempt)
        case worker_pb2.GENERATION_STATE_HANDED_OVER:
            return _stimuli.HandedOver(seat, is_safe=False)  # A listing does not tell.
        case _:
            return None


def note_event(
    record: _record.Record, seat: _stimuli.Seat, kind: str, event: worker_pb2.GenerationEvent
) -> None:
    """Keep for the user what an event tells; of strays nothing but their end."""
    if kind in TERMINAL:
        # Told once what it means for the request is clear.
        record.last_event = event
        if kind == "succeeded":
            record.announced[seat.incarnation] = event.succeeded.result
        return
    if record.tracker.seat != seat:
        return
    record.worker = seat.worker
    record.heard = time.monotonic()
    record.state = _events.STATES_BY_EVENT.get(kind, record.state)
    if kind == "progress":
        record.progress = _events.to_progress(event.progress)
        record.step_seconds = event.progress.seconds_per_step or record.step_seconds
    record.note(kind, seat.worker, event)


def note_listing(
    record: _record.Record, seat: _stimuli.Seat, generation: worker_pb2.Generation
) -> None:
    """Keep for the user what an entry of a listing tells."""
    if generation.state == worker_pb2.GENERATION_STATE_SUCCEEDED:
        record.announced[seat.incarnation] = generation.result
    if record.tracker.seat != seat:
        return
    record.worker = seat.worker
    record.heard = time.monotonic()
    record.state = _events.STATES_BY_WIRE.get(generation.state, record.state)
    if generation.progress.step:
        record.progress = _events.to_progress(generation.progress)

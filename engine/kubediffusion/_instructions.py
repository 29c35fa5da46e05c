"""What a tracker wants done, in order. Named tuples, as are the stimuli."""

from __future__ import annotations

from typing import NamedTuple

from kubediffusion import _stimuli
from kubediffusion_wire import errors


class Death(NamedTuple):
    """A worker that was lost under a generation which made no progress there."""

    attempt: int
    worker: str
    step: int
    """That had been reached."""
    resumed_from: int
    """Step of the checkpoint that the attempt went on from; 0 for none."""


class WriteWaiting(NamedTuple):
    """Journal that no worker has the request."""

    attempt: int
    strikes: int
    deaths: tuple[Death, ...] = ()
    """The evidence for the strikes."""


class WritePlaced(NamedTuple):
    """Journal the worker that is about to get the request."""

    seat: _stimuli.Seat
    attempt: int


class WriteAccepted(NamedTuple):
    """Journal that the worker has it."""

    seat: _stimuli.Seat


class WriteCancelling(NamedTuple):
    """Journal that the user wants no result."""


class WritePaused(NamedTuple):
    """Journal whether the generation is to rest."""

    is_paused: bool


class WriteEnded(NamedTuple):
    """Journal the outcome."""

    ending: _stimuli.Ending
    error: errors.KubediffusionError | None = None
    seat: _stimuli.Seat | None = None
    """Where it ended; None where that was here."""


class Queue(NamedTuple):
    """Find a worker, after a pause that grows with the number of failures."""

    failures: int


class Submit(NamedTuple):
    """Hand the request to the worker."""

    seat: _stimuli.Seat
    attempt: int


class Ask(NamedTuple):
    """Find out whether the worker still lives the same life."""

    seat: _stimuli.Seat


class Cancel(NamedTuple):
    """Ask the worker to cancel."""

    seat: _stimuli.Seat


class Pause(NamedTuple):
    """Ask the worker to let the generation rest."""

    seat: _stimuli.Seat


class Salvage(NamedTuple):
    """Get the newest checkpoint before the worker may forget it."""

    seat: _stimuli.Seat
    sha256: str = ""
    """Of the checkpoint; empty where it is not known."""


class DropCheckpoint(NamedTuple):
    """Keep the checkpoint no longer that the attempt should have gone on from."""


class Fetch(NamedTuple):
    """Get the result, and store it where results are kept."""

    seat: _stimuli.Seat


class Ack(NamedTuple):
    """Let the worker forget the generation, and stop it where it still runs."""

    seat: _stimuli.Seat


class Publish(NamedTuple):
    """Tell whoever waits that the request has ended."""

    ending: _stimuli.Ending
    error: errors.KubediffusionError | None = None


Writing = WriteWaiting | WritePlaced | WriteAccepted | WriteCancelling | WritePaused

Instruction = (
    Writing
    | WriteEnded
    | Queue
    | Submit
    | Ask
    | Cancel
    | Pause
    | Salvage
    | DropCheckpoint
    | Fetch
    | Ack
    | Publish
)

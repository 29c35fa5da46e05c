"""What a tracker wants done, in order. Named tuples, as are the stimuli."""

from __future__ import annotations

from typing import NamedTuple

from kubediffusion import _stimuli
from kubediffusion_wire import errors


class WriteWaiting(NamedTuple):
    """Journal that no worker has the request."""

    attempt: int
    strikes: int


class WritePlaced(NamedTuple):
    """Journal the worker that is about to get the request."""

    seat: _stimuli.Seat
    attempt: int


class WriteAccepted(NamedTuple):
    """Journal that the worker has it."""

    seat: _stimuli.Seat


class WriteCancelling(NamedTuple):
    """Journal that the user wants no result."""


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


Instruction = (
    WriteWaiting
    | WritePlaced
    | WriteAccepted
    | WriteCancelling
    | WriteEnded
    | Queue
    | Submit
    | Ask
    | Cancel
    | Fetch
    | Ack
    | Publish
)

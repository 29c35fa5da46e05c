"""What can happen to a request, as its tracker is told.

Named tuples, because the engine has to start fast: thirty frozen dataclasses would take
15 ms to make.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from kubediffusion_wire import errors


class Seat(NamedTuple):
    """A place where a generation can live: one life of one worker."""

    worker: str
    """The worker's name, for people and for the journal."""
    incarnation: str


class Ending(enum.Enum):
    """How a generation ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Assigned(NamedTuple):
    """A worker was chosen."""

    seat: Seat


class Accepted(NamedTuple):
    """A worker has the generation: it said so to a submit."""

    seat: Seat


class Refused(NamedTuple):
    """A worker does not take the generation, for certain."""

    seat: Seat
    error: errors.KubediffusionError


class AnswerLost(NamedTuple):
    """A submit may or may not have arrived."""

    seat: Seat


class Reached(NamedTuple):
    """The worker of a lost answer has been reached again, in the same life."""

    seat: Seat


class Progressed(NamedTuple):
    """The compute thread is at this step."""

    seat: Seat
    step: int
    total: int


class Listed(NamedTuple):
    """A worker that was asked what it holds has the generation, unfinished."""

    seat: Seat


class Missing(NamedTuple):
    """A worker that was asked what it holds does not have the generation."""

    seat: Seat


class Finished(NamedTuple):
    """A worker says that the generation has ended there."""

    seat: Seat
    ending: Ending
    error: errors.KubediffusionError | None = None
    """Why it failed."""
    attempt: int = 0
    """Of what has ended, as the worker knows it; 0 where it did not tell."""


class Resumed(NamedTuple):
    """The generation has caught up with the checkpoint that it goes on from."""

    seat: Seat
    step: int
    """0 where it began anew."""


class HandedOver(NamedTuple):
    """A worker that has to leave gave the generation back."""

    seat: Seat
    is_safe: bool = True
    """Whether this engine has all that the worker keeps of it."""
    sha256: str = ""
    """Of the checkpoint that the worker has; empty where it did not tell."""


class Salvaged(NamedTuple):
    """The checkpoint of a generation that was handed over is here, or cannot be had."""

    seat: Seat


class Fetched(NamedTuple):
    """The whole result is in this process, checked, and on disk where it should be."""

    seat: Seat


class FetchFailed(NamedTuple):
    """The result cannot be had from this worker."""

    seat: Seat
    error: errors.KubediffusionError


class Lost(NamedTuple):
    """A worker's life is over."""

    seat: Seat
    was_active: bool = True
    """Whether this generation, of all there, was the last one to give a sign of life."""


class Unreachable(NamedTuple):
    """A worker was out of reach for so long that others take over."""

    seat: Seat


class Hung(NamedTuple):
    """A worker is within reach, and its compute thread has not moved for too long."""

    seat: Seat


class CancelAsked(NamedTuple):
    """The user wants no result."""


class PauseAsked(NamedTuple):
    """The generation is to rest."""

    seat: Seat | None = None
    """Of the worker that tells that it does; None: its user wants it."""


class UnpauseAsked(NamedTuple):
    """The generation is to go on."""

    seat: Seat | None = None
    """Of the worker that tells that it does; None: its user wants it."""


class DeadlinePassed(NamedTuple):
    """The user's deadline has passed."""


class Contradicted(NamedTuple):
    """A worker holds other content under the same id."""

    error: errors.KubediffusionError


Stimulus = (
    Assigned
    | Accepted
    | Refused
    | AnswerLost
    | Reached
    | Progressed
    | Listed
    | Missing
    | Finished
    | Resumed
    | HandedOver
    | Salvaged
    | Fetched
    | FetchFailed
    | Lost
    | Unreachable
    | Hung
    | CancelAsked
    | PauseAsked
    | UnpauseAsked
    | DeadlinePassed
    | Contradicted
)

"""The life of one request as the engine sees it: a state machine without input or output.

A stimulus goes in, instructions come out, to be carried out in order; whatever they bring
about comes back as the next stimulus. Nothing here reads a clock, draws a number or calls a
worker, so every order of events can be tried in a test.

Three rules are kept in whatever order stimuli come:

- a request ends once, with the first result that was fetched whole;
- nothing is acknowledged before what it leads to is in the journal;
- a request is handed to another worker only when the one before is known to be gone, to have
  lost it, or to be out of reach for too long.

Stimuli and instructions are named tuples because the engine has to start fast: thirty frozen
dataclasses would take 15 ms to make.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kubediffusion_wire import errors

POISON_STRIKES = 2
"""Workers that may die under a generation that makes no progress."""


class Seat(NamedTuple):
    """A place where a generation can live: one life of one worker."""

    worker: str
    """The worker's name, for people and for the journal."""
    incarnation: str


class Phase(enum.Enum):
    """Where a request stands."""

    WAITING = "waiting"
    """No worker has it."""
    SUBMITTING = "submitting"
    """It was handed to a worker whose answer is awaited."""
    RECALLED = "recalled"
    """A predecessor of this engine handed it to a worker that was not asked yet."""
    RUNNING = "running"
    """A worker has it, queued or running."""
    FETCHING = "fetching"
    """It succeeded; its result is being fetched."""
    ENDED = "ended"


class Ending(enum.Enum):
    """How a generation ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


# ---------------------------------------------------------------- stimuli


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


class HandedOver(NamedTuple):
    """A worker that has to leave gave the generation back."""

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


class Unreachable(NamedTuple):
    """A worker was out of reach for so long that others take over."""

    seat: Seat


class CancelAsked(NamedTuple):
    """The user wants no result."""


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
    | HandedOver
    | Fetched
    | FetchFailed
    | Lost
    | Unreachable
    | CancelAsked
    | DeadlinePassed
    | Contradicted
)

# ---------------------------------------------------------------- instructions


class WriteWaiting(NamedTuple):
    """Journal that no worker has the request."""

    attempt: int
    strikes: int


class WritePlaced(NamedTuple):
    """Journal the worker that is about to get the request."""

    seat: Seat
    attempt: int


class WriteAccepted(NamedTuple):
    """Journal that the worker has it."""

    seat: Seat


class WriteCancelling(NamedTuple):
    """Journal that the user wants no result."""


class WriteEnded(NamedTuple):
    """Journal the outcome."""

    ending: Ending
    error: errors.KubediffusionError | None = None
    seat: Seat | None = None
    """Where the result came from."""


class Queue(NamedTuple):
    """Find a worker, after a pause that grows with the number of failures."""

    failures: int


class Submit(NamedTuple):
    """Hand the request to the worker."""

    seat: Seat
    attempt: int


class Ask(NamedTuple):
    """Find out whether the worker still lives the same life."""

    seat: Seat


class Cancel(NamedTuple):
    """Ask the worker to cancel."""

    seat: Seat


class Fetch(NamedTuple):
    """Get the result, and store it where results are kept."""

    seat: Seat


class Ack(NamedTuple):
    """Let the worker forget the generation."""

    seat: Seat


class Publish(NamedTuple):
    """Tell whoever waits that the request has ended."""

    ending: Ending
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
Instructions = Iterator[Instruction]


# ---------------------------------------------------------------- the machine


@dataclass(slots=True, kw_only=True)
class Tracker:
    """Follows one request."""

    phase: Phase = Phase.WAITING
    seat: Seat | None = None
    """Of the current attempt; None while waiting and once ended."""
    attempt: int = 1
    """Of the current or, while waiting, the next placement."""
    is_accepted: bool = False
    """Whether the current seat is known to have had it."""
    is_cancelling: bool = False
    can_resubmit: bool = True
    """False where the request itself is not known, only that a worker has it."""
    max_attempts: int = 16
    strikes: int = 0
    step: int = 0
    """Newest step of the current attempt."""
    total: int = 0
    is_started: bool = False
    """Whether the compute thread has begun the current attempt."""
    reached: int = 0
    """Highest step of all attempts."""
    failures: int = 0
    """Placements in a row that came to nothing."""
    strays: set[Seat] = field(default_factory=set)
    """Other seats at which the generation may still be alive."""

    def handle(self, stimulus: Stimulus) -> tuple[Instruction, ...]:
        """Take note of what happened and return what to do, in order."""
        if self.phase is Phase.ENDED:
            return tuple(self._after_end(stimulus))
        handler = _HANDLERS[type(stimulus)]
        return tuple(handler(self, stimulus))

    def _after_end(self, stimulus: Stimulus) -> Instructions:
        """Clean up whatever still turns up on workers."""
        if isinstance(stimulus, Accepted | Listed):
            self.strays.add(stimulus.seat)
            yield Cancel(stimulus.seat)
        elif isinstance(stimulus, Finished | HandedOver):
            self.strays.discard(stimulus.seat)
            yield Ack(stimulus.seat)
        elif isinstance(stimulus, Lost | Missing):
            self.strays.discard(stimulus.seat)

    # -- placement

    def _assigned(self, stimulus: Assigned) -> Instructions:
        if self.phase is not Phase.WAITING:
            return
        self._sit(stimulus.seat, Phase.SUBMITTING, is_accepted=False)
        yield WritePlaced(stimulus.seat, self.attempt)
        yield Submit(stimulus.seat, self.attempt)

    def _accepted(self, stimulus: Accepted) -> Instructions:
        if self.phase is not Phase.SUBMITTING:
            yield from self._noticed(stimulus.seat)
            return
        if self.seat is not None and stimulus.seat.incarnation != self.seat.incarnation:
            # The worker had just been restarted: its new life took the request.
            yield WritePlaced(stimulus.seat, self.attempt)
        yield from self._confirm(stimulus.seat)

    def _refused(self, stimulus: Refused) -> Instructions:
        if self.phase is not Phase.SUBMITTING or stimulus.seat != self.seat:
            return
        if isinstance(stimulus.error, _ELSEWHERE | errors.WaitError):
            yield from self._leave(is_new_attempt=False)
        else:
            yield from self._end(Ending.FAILED, stimulus.error)

    def _answer_lost(self, stimulus: AnswerLost) -> Instructions:
        if self.phase is Phase.SUBMITTING and stimulus.seat == self.seat:
            yield Ask(stimulus.seat)

    def _reached(self, stimulus: Reached) -> Instructions:
        # The same id and content again is the same generation to the same life.
        if self.phase is Phase.SUBMITTING and stimulus.seat == self.seat:
            yield Submit(stimulus.seat, self.attempt)

    # -- what workers tell

    def _progressed(self, stimulus: Progressed) -> Instructions:
        if stimulus.seat == self.seat:
            self.is_started = True
            self.failures = 0
            self.step, self.total = stimulus.step, stimulus.total
            self.reached = max(self.reached, stimulus.step)
        yield from ()

    def _listed(self, stimulus: Listed) -> Instructions:
        yield from self._noticed(stimulus.seat)

    def _noticed(self, seat: Seat) -> Instructions:
        """The generation is alive at a seat."""
        if self.phase is Phase.WAITING:
            # A worker that had been given up is back before another one took over.
            self._sit(seat, Phase.RUNNING, is_accepted=True)
            self.strays.discard(seat)
            yield WritePlaced(seat, self.attempt)
            yield from self._confirm(seat)
        elif self.seat is None or seat.incarnation != self.seat.incarnation:
            self.strays.add(seat)
            yield Cancel(seat)
        elif self.phase is not Phase.FETCHING:
            yield from self._confirm(seat)

    def _confirm(self, seat: Seat) -> Instructions:
        is_known = self.phase is Phase.RUNNING and self.is_accepted and self.seat == seat
        self.seat = seat
        self.phase = Phase.RUNNING
        self.is_accepted = True
        if not is_known:
            yield WriteAccepted(seat)
        if self.is_cancelling:
            yield Cancel(seat)

    def _missing(self, stimulus: Missing) -> Instructions:
        self.strays.discard(stimulus.seat)
        if stimulus.seat != self.seat or self.phase is Phase.SUBMITTING:
            return
        yield from self._leave(is_new_attempt=self.is_accepted)

    def _finished(self, stimulus: Finished) -> Instructions:
        if stimulus.ending is Ending.SUCCEEDED:
            yield from self._succeeded(stimulus.seat)
        elif stimulus.seat != self.seat or self.phase is Phase.FETCHING:
            self.strays.discard(stimulus.seat)
            yield Ack(stimulus.seat)
        elif isinstance(stimulus.error, _ELSEWHERE | errors.WaitError):
            yield from self._leave(is_new_attempt=True, ack=stimulus.seat)
        else:
            self.strays.add(stimulus.seat)
            yield from self._end(stimulus.ending, stimulus.error, ack=stimulus.seat)

    def _succeeded(self, seat: Seat) -> Instructions:
        if self.phase is Phase.FETCHING:
            if seat != self.seat:
                self.strays.add(seat)  # It is acknowledged once the other one is safe.
            return
        if self.seat is not None and seat != self.seat:
            self.strays.add(self.seat)
        self._sit(seat, Phase.FETCHING, is_accepted=True)
        self.strays.discard(seat)
        yield Fetch(seat)

    def _handed_over(self, stimulus: HandedOver) -> Instructions:
        if stimulus.seat == self.seat:
            yield from self._leave(is_new_attempt=True, ack=stimulus.seat)
        else:
            self.strays.discard(stimulus.seat)
            yield Ack(stimulus.seat)

    # -- the result

    def _fetched(self, stimulus: Fetched) -> Instructions:
        if self.phase is Phase.FETCHING and stimulus.seat == self.seat:
            yield from self._end(Ending.SUCCEEDED, ack=stimulus.seat, source=stimulus.seat)

    def _fetch_failed(self, stimulus: FetchFailed) -> Instructions:
        if self.phase is Phase.FETCHING and stimulus.seat == self.seat:
            yield from self._leave(is_new_attempt=True, error=stimulus.error)

    # -- losses

    def _lost(self, stimulus: Lost) -> Instructions:
        self.strays.discard(stimulus.seat)
        if stimulus.seat != self.seat:
            return
        if self._died_without_progress():
            self.strikes += 1
        elif self.is_started:
            self.strikes = 0
        yield from self._leave(is_new_attempt=True)

    def _died_without_progress(self) -> bool:
        """Whether this death looks like the request's own doing.

        It does where the attempt held the compute thread and passed no boundary, or where
        every one had been passed before and it died in decoding once more.
        """
        if not self.is_started or self.phase is not Phase.RUNNING:
            return False
        is_decoding_again = self.total > 0 and self.step >= self.total and self.attempt > 1
        return self.step == 0 or is_decoding_again

    def _unreachable(self, stimulus: Unreachable) -> Instructions:
        if stimulus.seat != self.seat:
            return
        self.strays.add(stimulus.seat)
        yield from self._leave(is_new_attempt=True)

    def _leave(
        self,
        *,
        is_new_attempt: bool,
        ack: Seat | None = None,
        error: errors.KubediffusionError | None = None,
    ) -> Instructions:
        """Go on without the current seat: wait for another one, or end."""
        if self.is_cancelling:
            yield from self._end(Ending.CANCELLED, ack=ack)
            return
        hopeless = self._why_hopeless(is_new_attempt, error)
        if hopeless is not None:
            yield from self._end(Ending.FAILED, hopeless, ack=ack)
            return
        self.failures += 1
        self.attempt += is_new_attempt
        self._sit(None, Phase.WAITING, is_accepted=False)
        yield WriteWaiting(self.attempt, self.strikes)
        if ack is not None:
            yield Ack(ack)
        yield Queue(self.failures)

    def _why_hopeless(
        self, is_new_attempt: bool, error: errors.KubediffusionError | None
    ) -> errors.KubediffusionError | None:
        if self.strikes >= POISON_STRIKES:
            return errors.PoisonedError(
                f"{self.strikes} workers died under this generation without any progress in "
                "between; it is not tried again"
            )
        if not self.can_resubmit:
            return error or errors.WorkerGoneError(
                "the worker that had this generation has lost it, and this engine does not "
                "know the request; submit it again under the same id"
            )
        if is_new_attempt and self.attempt >= self.max_attempts:
            return error or errors.WorkerGoneError(
                f"gave up after {self.attempt} attempts, each of which lost its worker"
            )
        return None

    def _sit(self, seat: Seat | None, phase: Phase, *, is_accepted: bool) -> None:
        if seat != self.seat or phase is Phase.SUBMITTING:
            self.step, self.total, self.is_started = 0, 0, False
        self.seat, self.phase, self.is_accepted = seat, phase, is_accepted

    # -- the user

    def _cancel_asked(self, stimulus: CancelAsked) -> Instructions:
        del stimulus
        if self.phase is Phase.WAITING:
            yield from self._end(Ending.CANCELLED)
        elif self.phase is not Phase.FETCHING and not self.is_cancelling:
            # A result that is there already is delivered: it is too late to cancel.
            self.is_cancelling = True
            yield WriteCancelling()
            if self.phase is Phase.RUNNING and self.seat is not None:
                yield Cancel(self.seat)

    def _deadline_passed(self, stimulus: DeadlinePassed) -> Instructions:
        del stimulus
        if self.phase is Phase.WAITING:  # Elsewhere the worker watches the deadline.
            error = errors.DeadlineExceededError("the deadline passed before a worker was free")
            yield from self._end(Ending.FAILED, error)

    def _contradicted(self, stimulus: Contradicted) -> Instructions:
        yield from self._end(Ending.FAILED, stimulus.error)

    def _end(
        self,
        ending: Ending,
        error: errors.KubediffusionError | None = None,
        *,
        ack: Seat | None = None,
        source: Seat | None = None,
    ) -> Instructions:
        if ending is Ending.CANCELLED and error is None:
            error = errors.GenerationCancelledError("the generation was cancelled")
        self.strays.discard(ack or Seat("", ""))
        self._sit(None, Phase.ENDED, is_accepted=False)
        yield WriteEnded(ending, error, source)
        if ack is not None:
            yield Ack(ack)
        for stray in sorted(self.strays):
            yield Cancel(stray)
        yield Publish(ending, error)


_ELSEWHERE = (
    errors.RetryElsewhereError
    | errors.UntrustedPeerError
    | errors.NotImplementedByWorkerError
    | errors.EvictedError
)
"""Errors that say something about the worker and nothing about the request."""

_HANDLERS: Mapping[type[Any], Callable[[Tracker, Any], Instructions]] = {  # Any: its key
    Assigned: Tracker._assigned,
    Accepted: Tracker._accepted,
    Refused: Tracker._refused,
    AnswerLost: Tracker._answer_lost,
    Reached: Tracker._reached,
    Progressed: Tracker._progressed,
    Listed: Tracker._listed,
    Missing: Tracker._missing,
    Finished: Tracker._finished,
    HandedOver: Tracker._handed_over,
    Fetched: Tracker._fetched,
    FetchFailed: Tracker._fetch_failed,
    Lost: Tracker._lost,
    Unreachable: Tracker._unreachable,
    CancelAsked: Tracker._cancel_asked,
    DeadlinePassed: Tracker._deadline_passed,
    Contradicted: Tracker._contradicted,
}

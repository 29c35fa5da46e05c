"""The life of one request as the engine sees it: a state machine without input or output.

A stimulus goes in, instructions come out, to be carried out in order; whatever they bring
about comes back as the next stimulus. Nothing here reads a clock, draws a number or calls a
worker, so every order of events can be tried in a test.

Four rules are kept in whatever order stimuli come:

- a request ends once, with the first result that was fetched whole;
- nothing is acknowledged before what it leads to is in the journal;
- a request is handed to another worker only when the one before is known to be gone, to have
  lost it, to be out of reach for too long, or to be stuck;
- what a worker hands over is not acknowledged before its checkpoint is here, while that worker
  can still give it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubediffusion import _instructions, _stimuli
from kubediffusion_wire import errors

POISON_STRIKES = 2
"""Workers that may die under a generation that makes no progress."""


Instructions = Iterator[_instructions.Instruction]


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
    SALVAGING = "salvaging"
    """A worker handed it over; its checkpoint is being fetched."""
    FETCHING = "fetching"
    """It succeeded; its result is being fetched."""
    ENDED = "ended"


@dataclass(slots=True, kw_only=True)
class Tracker:
    """Follows one request."""

    phase: Phase = Phase.WAITING
    seat: _stimuli.Seat | None = None
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
    resumed_from: int = 0
    """Step of the checkpoint that the current attempt went on from; 0 for none."""
    failures: int = 0
    """Placements in a row that came to nothing."""
    fruitless: int = 0
    """Attempts in a row that came to nothing; at `max_attempts` it ends."""
    strays: set[_stimuli.Seat] = field(default_factory=set)
    """Other seats at which the generation may still be alive."""
    dismissed: set[_stimuli.Seat] = field(default_factory=set)
    """Seats that were told to cancel although the user did not ask for it."""
    deaths: tuple[_instructions.Death, ...] = ()
    """The evidence for the strikes."""
    is_paused: bool = False
    """Whether it is to rest until the user says otherwise."""
    is_late: bool = False
    """Whether its deadline has passed."""

    def handle(self, stimulus: _stimuli.Stimulus) -> tuple[_instructions.Instruction, ...]:
        """Take note of what happened and return what to do, in order."""
        if self.phase is Phase.ENDED:
            return tuple(self._after_end(stimulus))
        handler = _HANDLERS[type(stimulus)]
        return tuple(handler(self, stimulus))

    def _after_end(self, stimulus: _stimuli.Stimulus) -> Instructions:
        """Clean up whatever still turns up on workers."""
        if isinstance(
            stimulus, _stimuli.Accepted | _stimuli.Listed | _stimuli.Finished | _stimuli.HandedOver
        ):
            self.strays.discard(stimulus.seat)
            yield _instructions.Ack(stimulus.seat)
        elif isinstance(stimulus, _stimuli.Lost | _stimuli.Missing):
            self.strays.discard(stimulus.seat)

    # -- placement

    def _assigned(self, stimulus: _stimuli.Assigned) -> Instructions:
        if self.phase is not Phase.WAITING:
            return
        self._sit(stimulus.seat, Phase.SUBMITTING, is_accepted=False)
        yield _instructions.WritePlaced(stimulus.seat, self.attempt)
        yield _instructions.Submit(stimulus.seat, self.attempt)

    def _accepted(self, stimulus: _stimuli.Accepted) -> Instructions:
        if self.phase is not Phase.SUBMITTING:
            yield from self._noticed(stimulus.seat)
            return
        if self.seat is not None and stimulus.seat.incarnation != self.seat.incarnation:
            # The worker had just been restarted: its new life took the request.
            yield _instructions.WritePlaced(stimulus.seat, self.attempt)
        yield from self._confirm(stimulus.seat)

    def _refused(self, stimulus: _stimuli.Refused) -> Instructions:
        if self.phase is not Phase.SUBMITTING or stimulus.seat != self.seat:
            return
        if isinstance(stimulus.error, errors.WaitError):
            # The worker is left alone for a while; the request need not wait for it.
            yield from self._leave(is_new_attempt=False, is_failure=False)
        elif isinstance(stimulus.error, _ELSEWHERE):
            yield from self._leave(is_new_attempt=False)
        else:
            yield from self._end(_stimuli.Ending.FAILED, stimulus.error)

    def _answer_lost(self, stimulus: _stimuli.AnswerLost) -> Instructions:
        if self.phase is Phase.SUBMITTING and stimulus.seat == self.seat:
            yield _instructions.Ask(stimulus.seat)

    def _reached(self, stimulus: _stimuli.Reached) -> Instructions:
        # The same id and content again is the same generation to the same life.
        if self.phase is Phase.SUBMITTING and stimulus.seat == self.seat:
            yield _instructions.Submit(stimulus.seat, self.attempt)

    # -- what workers tell

    def _progressed(self, stimulus: _stimuli.Progressed) -> Instructions:
        if stimulus.seat == self.seat:
            self.is_started = True
            self.failures = 0
            if stimulus.step > self.resumed_from:
                self.fruitless = 0
            self.step, self.total = stimulus.step, stimulus.total
        yield from ()

    def _resumed(self, stimulus: _stimuli.Resumed) -> Instructions:
        if stimulus.seat == self.seat:
            self.is_started = True
            self.step = self.resumed_from = stimulus.step
        yield from ()

    def _listed(self, stimulus: _stimuli.Listed) -> Instructions:
        yield from self._noticed(stimulus.seat)

    def _noticed(self, seat: _stimuli.Seat) -> Instructions:
        """The generation is alive at a seat."""
        if self.phase is Phase.WAITING and seat not in self.dismissed:
            # A worker that had been given up is back before another one took over.
            self._sit(seat, Phase.SUBMITTING, is_accepted=False)
            self.strays.discard(seat)
            yield _instructions.WritePlaced(seat, self.attempt)
            yield from self._confirm(seat)
        elif self.seat is None or seat.incarnation != self.seat.incarnation:
            yield from self._dismiss(seat)
        elif self.phase not in (Phase.FETCHING, Phase.SALVAGING):
            yield from self._confirm(seat)

    def _dismiss(self, seat: _stimuli.Seat) -> Instructions:
        """Stop the generation where it is not wanted any more."""
        self.strays.add(seat)
        self.dismissed.add(seat)
        yield _instructions.Cancel(seat)

    def _confirm(self, seat: _stimuli.Seat) -> Instructions:
        is_known = self.phase is Phase.RUNNING and self.is_accepted and self.seat == seat
        self.seat = seat
        self.phase = Phase.RUNNING
        self.is_accepted = True
        if not is_known:
            yield _instructions.WriteAccepted(seat)
        if self.is_cancelling:
            yield _instructions.Cancel(seat)
        elif self.is_paused and not is_known:
            yield _instructions.Pause(seat)

    def _missing(self, stimulus: _stimuli.Missing) -> Instructions:
        self._forget(stimulus.seat)
        if stimulus.seat != self.seat or self.phase is Phase.SUBMITTING:
            return
        yield from self._leave(is_new_attempt=self.is_accepted)

    def _finished(self, stimulus: _stimuli.Finished) -> Instructions:
        if stimulus.ending is _stimuli.Ending.SUCCEEDED:
            yield from self._succeeded(stimulus.seat)
        elif stimulus.seat != self.seat or self.phase is Phase.FETCHING:
            self._forget(stimulus.seat)
            yield _instructions.Ack(stimulus.seat)
        elif self._is_dismissal(stimulus):
            yield from self._leave(is_new_attempt=True, is_failure=False, ack=stimulus.seat)
        elif isinstance(stimulus.error, _ELSEWHERE | errors.WaitError):
            if isinstance(stimulus.error, errors.WorkerFailedError):
                self._count_death()
            yield from self._leave(is_new_attempt=True, ack=stimulus.seat)
        elif isinstance(stimulus.error, _BAD_CHECKPOINT):
            yield _instructions.DropCheckpoint()
            yield from self._leave(is_new_attempt=True, ack=stimulus.seat)
        else:
            yield from self._end(stimulus.ending, stimulus.error, ack=stimulus.seat)

    def _is_dismissal(self, stimulus: _stimuli.Finished) -> bool:
        """Tell whether a cancel was this engine's doing, and not what anybody asked for."""
        if stimulus.ending is not _stimuli.Ending.CANCELLED or self.is_cancelling:
            return False
        # An earlier start may have told it: then an attempt ended that had been given up.
        return stimulus.seat in self.dismissed or 0 < stimulus.attempt < self.attempt

    def _succeeded(self, seat: _stimuli.Seat) -> Instructions:
        if self.phase is Phase.FETCHING:
            if seat != self.seat:
                self.strays.add(seat)  # It is acknowledged once the other one is safe.
            return
        if self.seat is not None and seat != self.seat:
            self.strays.add(self.seat)
        self._sit(seat, Phase.FETCHING, is_accepted=True)
        self.strays.discard(seat)
        yield _instructions.Fetch(seat)

    def _handed_over(self, stimulus: _stimuli.HandedOver) -> Instructions:
        seat = stimulus.seat
        # What a worker that had been given up saved is of use while no other one has begun.
        is_of_use = self.phase is Phase.WAITING and not stimulus.is_safe
        if self.phase is Phase.FETCHING or not (seat == self.seat or is_of_use):
            self._forget(seat)
            yield _instructions.Ack(seat)
        elif stimulus.is_safe or self.is_cancelling:
            yield from self._leave(is_new_attempt=True, is_failure=False, ack=seat)
        elif self.phase is not Phase.SALVAGING:
            self._sit(seat, Phase.SALVAGING, is_accepted=True)
            self._forget(seat)
            yield _instructions.Salvage(seat, stimulus.sha256)

    def _salvaged(self, stimulus: _stimuli.Salvaged) -> Instructions:
        if self.phase is Phase.SALVAGING and stimulus.seat == self.seat:
            yield from self._leave(is_new_attempt=True, is_failure=False, ack=stimulus.seat)

    # -- the result

    def _fetched(self, stimulus: _stimuli.Fetched) -> Instructions:
        if self.phase is Phase.FETCHING and stimulus.seat == self.seat:
            yield from self._end(_stimuli.Ending.SUCCEEDED, ack=stimulus.seat)

    def _fetch_failed(self, stimulus: _stimuli.FetchFailed) -> Instructions:
        if self.phase is Phase.FETCHING and stimulus.seat == self.seat:
            yield from self._leave(is_new_attempt=True, error=stimulus.error)

    # -- losses

    def _lost(self, stimulus: _stimuli.Lost) -> Instructions:
        self._forget(stimulus.seat)
        if stimulus.seat != self.seat:
            return
        if stimulus.was_active:
            self._count_death()
        is_failure = self._is_fruitless and stimulus.was_active
        yield from self._leave(is_new_attempt=True, is_failure=is_failure)

    @property
    def _is_fruitless(self) -> bool:
        """Whether the current attempt was begun and has got nowhere.

        Else its loss does not count: it waited for its turn, or the next one goes on from
        where it was.
        """
        return self.is_started and self.step <= self.resumed_from

    def _count_death(self) -> None:
        if self._died_without_progress():
            worker = self.seat.worker if self.seat is not None else ""
            death = _instructions.Death(self.attempt, worker, self.step, self.resumed_from)
            self.deaths = (*self.deaths, death)
            self.strikes += 1
        elif self.is_started:
            self.strikes, self.deaths = 0, ()

    def _died_without_progress(self) -> bool:
        """Whether this death looks like the request's own doing.

        It does where the attempt held the compute thread and passed no boundary beyond its
        checkpoint, or where every one had been passed before and it died in decoding once more.
        """
        if not self.is_started or self.phase is not Phase.RUNNING:
            return False
        is_decoding_again = self.total > 0 and self.step >= self.total and self.attempt > 1
        return self.step <= self.resumed_from or is_decoding_again

    def _unreachable(self, stimulus: _stimuli.Unreachable) -> Instructions:
        if stimulus.seat != self.seat:
            return
        self.strays.add(stimulus.seat)
        yield from self._leave(is_new_attempt=True, is_failure=self._is_fruitless)

    def _hung(self, stimulus: _stimuli.Hung) -> Instructions:
        if stimulus.seat != self.seat or self.phase is not Phase.RUNNING:
            return
        self._count_death()
        yield from self._dismiss(stimulus.seat)
        yield from self._leave(is_new_attempt=True, is_failure=self._is_fruitless)

    def _forget(self, seat: _stimuli.Seat) -> None:
        """The generation is not, or no longer, at a seat."""
        self.strays.discard(seat)
        self.dismissed.discard(seat)

    def _leave(
        self,
        *,
        is_new_attempt: bool,
        is_failure: bool = True,
        ack: _stimuli.Seat | None = None,
        error: errors.KubediffusionError | None = None,
    ) -> Instructions:
        """Go on without the current seat: wait for another one, or end."""
        if ack is not None:
            self._forget(ack)
        if self.is_cancelling:
            yield from self._end(_stimuli.Ending.CANCELLED, ack=ack)
            return
        self.fruitless += is_new_attempt and is_failure
        hopeless = self._why_hopeless(error)
        if hopeless is not None:
            yield from self._end(_stimuli.Ending.FAILED, hopeless, ack=ack)
            return
        self.failures += is_failure
        self.attempt += is_new_attempt
        self._sit(None, Phase.WAITING, is_accepted=False)
        yield _instructions.WriteWaiting(self.attempt, self.strikes, self.deaths)
        if ack is not None:
            yield _instructions.Ack(ack)
        if not self.is_paused:
            yield _instructions.Queue(self.failures if is_failure else 0)

    def _why_hopeless(
        self, error: errors.KubediffusionError | None
    ) -> errors.KubediffusionError | None:
        if self.strikes >= POISON_STRIKES:
            return errors.PoisonedError(
                f"{self.strikes} workers died under this generation without any progress in "
                "between; it is not tried again",
                metadata=_evidence(self.deaths),
            )
        if self.is_late:
            return errors.DeadlineExceededError("the deadline passed with the loss of a worker")
        if not self.can_resubmit:
            return error or errors.WorkerGoneError(
                "the worker that had this generation has lost it, and this engine does not "
                "know the request; submit it again under the same id"
            )
        if self.fruitless >= self.max_attempts:
            return error or errors.WorkerGoneError(
                f"gave up after {self.fruitless} attempts in a row that came to nothing"
            )
        return None

    def _sit(self, seat: _stimuli.Seat | None, phase: Phase, *, is_accepted: bool) -> None:
        if seat != self.seat or phase is Phase.SUBMITTING:
            self.step, self.total, self.is_started, self.resumed_from = 0, 0, False, 0
        self.seat, self.phase, self.is_accepted = seat, phase, is_accepted

    # -- the user

    def _cancel_asked(self, stimulus: _stimuli.CancelAsked) -> Instructions:
        del stimulus
        if self.phase is Phase.WAITING:
            yield from self._end(_stimuli.Ending.CANCELLED)
        elif self.phase is not Phase.FETCHING and not self.is_cancelling:
            # A result that is there already is delivered: it is too late to cancel.
            self.is_cancelling = True
            yield _instructions.WriteCancelling()
            if self.phase is Phase.RUNNING and self.seat is not None:
                yield _instructions.Cancel(self.seat)

    def _pause_asked(self, stimulus: _stimuli.PauseAsked) -> Instructions:
        if not self.is_paused and stimulus.seat in (None, self.seat):
            self.is_paused = True
            yield _instructions.WritePaused(True)

    def _unpause_asked(self, stimulus: _stimuli.UnpauseAsked) -> Instructions:
        if self.is_paused and stimulus.seat in (None, self.seat):
            self.is_paused = False
            yield _instructions.WritePaused(False)
            if self.phase is Phase.WAITING:
                yield _instructions.Queue(0)

    def _deadline_passed(self, stimulus: _stimuli.DeadlinePassed) -> Instructions:
        del stimulus
        self.is_late = True
        if self.phase is Phase.WAITING:  # Elsewhere the worker watches the deadline.
            error = errors.DeadlineExceededError("the deadline passed before a worker was free")
            yield from self._end(_stimuli.Ending.FAILED, error)

    def _contradicted(self, stimulus: _stimuli.Contradicted) -> Instructions:
        yield from self._end(_stimuli.Ending.FAILED, stimulus.error)

    def _end(
        self,
        ending: _stimuli.Ending,
        error: errors.KubediffusionError | None = None,
        *,
        ack: _stimuli.Seat | None = None,
    ) -> Instructions:
        if ending is _stimuli.Ending.CANCELLED and error is None:
            error = errors.GenerationCancelledError("the generation was cancelled")
        if ack is not None:
            self._forget(ack)
        self._sit(None, Phase.ENDED, is_accepted=False)
        yield _instructions.WriteEnded(ending, error, ack)
        if ack is not None:
            yield _instructions.Ack(ack)
        for stray in sorted(self.strays):
            yield _instructions.Ack(stray)
        yield _instructions.Publish(ending, error)


def _evidence(deaths: tuple[_instructions.Death, ...]) -> Mapping[str, str]:
    """Return what is known of the strikes, as metadata of an error."""
    return {
        "attempts": ", ".join(str(death.attempt) for death in deaths),
        "workers": ", ".join(death.worker for death in deaths),
        "steps": ", ".join(str(death.step) for death in deaths),
        "resumed_from": ", ".join(str(death.resumed_from) for death in deaths),
    }


_ELSEWHERE = (
    errors.RetryElsewhereError
    | errors.UntrustedPeerError
    | errors.NotImplementedByWorkerError
    | errors.EvictedError
)
"""Errors that say something about the worker and nothing about the request."""

_BAD_CHECKPOINT = errors.InvalidCheckpointError | errors.CheckpointNotFoundError
"""Errors that say something about the checkpoint of the attempt alone."""

_HANDLERS: Mapping[type[Any], Callable[[Tracker, Any], Instructions]] = {  # Any: its key
    _stimuli.Assigned: Tracker._assigned,
    _stimuli.Accepted: Tracker._accepted,
    _stimuli.Refused: Tracker._refused,
    _stimuli.AnswerLost: Tracker._answer_lost,
    _stimuli.Reached: Tracker._reached,
    _stimuli.Progressed: Tracker._progressed,
    _stimuli.Listed: Tracker._listed,
    _stimuli.Missing: Tracker._missing,
    _stimuli.Finished: Tracker._finished,
    _stimuli.Resumed: Tracker._resumed,
    _stimuli.HandedOver: Tracker._handed_over,
    _stimuli.Salvaged: Tracker._salvaged,
    _stimuli.Fetched: Tracker._fetched,
    _stimuli.FetchFailed: Tracker._fetch_failed,
    _stimuli.Lost: Tracker._lost,
    _stimuli.Unreachable: Tracker._unreachable,
    _stimuli.Hung: Tracker._hung,
    _stimuli.CancelAsked: Tracker._cancel_asked,
    _stimuli.PauseAsked: Tracker._pause_asked,
    _stimuli.UnpauseAsked: Tracker._unpause_asked,
    _stimuli.DeadlinePassed: Tracker._deadline_passed,
    _stimuli.Contradicted: Tracker._contradicted,
}

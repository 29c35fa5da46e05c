"""The generations on the compute thread: greenlets, of which one computes at any time.

A generation is left at its boundaries alone, where `Stage.boundary` lets others compute before
it returns. Everything here belongs on the compute thread, but for `Stage.order`.
"""

import collections
import contextvars
import itertools
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import greenlet

from kubediffusion_worker import hub, runs, surroundings, vitals


class Player(Protocol):
    """What a stage asks of a generation, in the generation's own greenlet."""

    def play(self) -> None:
        """Computes from begin to end; raises nothing."""

    def attend(self) -> None:
        """Does what waits for a boundary; what it raises leaves the pipeline."""

    def park(self) -> bool:
        """Prepares for others to compute; returns whether they may."""
        ...

    def unpark(self) -> None:
        """Prepares to go on; what it raises leaves the pipeline."""

    def paused(self) -> None:
        """Takes note that it will not compute until it is no longer paused."""

    def unpaused(self) -> None:
        """Takes note that it may compute again."""


class Act:
    """One generation on the stage."""

    def __init__(
        self, number: int, player: Player, *, priority: int, deadline: float | None
    ) -> None:
        self.number = number
        self.player = player
        self.priority = priority
        self.deadline = deadline
        self.has_errand = False
        """Whether it shall get to its next boundary soon, whatever its priority."""
        self.is_paused = False
        self.is_told = False
        """Whether it knows that it is paused."""
        self.share = 0.0
        self.last_ran = hub.NEVER
        self.arrived = 0
        self.greenlet: greenlet.greenlet | None = None
        self.signs: vitals.Signs | None = None
        self.restore: surroundings.Restore | None = None

    @property
    def has_begun(self) -> bool:
        """Whether it has computed."""
        return self.greenlet is not None

    @property
    def candidate(self) -> hub.Candidate:
        """What the hub needs to know."""
        return hub.Candidate(
            number=self.number,
            priority=self.priority,
            deadline=self.deadline,
            share=self.share,
            last_ran=self.last_ran,
            arrived=self.arrived,
            is_paused=self.is_paused,
        )


@dataclass(frozen=True, slots=True)
class _Job:
    do: Callable[[], None]
    arrived: int
    is_safe: bool


class Stage:
    """Lets generations and jobs take turns on the thread that calls `work`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.pulse = vitals.Pulse()
        self._clock = clock
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._acts: dict[int, Act] = {}
        self._jobs: collections.deque[_Job] = collections.deque()
        self._arrivals = itertools.count()
        self._hub: greenlet.greenlet | None = None
        self._current: Act | None = None
        self._computes_since = 0.0
        # A turn outlasts what others do in the middle of it without being chosen.
        self._turn_of: int | None = None
        self._turn_seconds = 0.0
        self._turns = itertools.count()
        self._has_news = False
        """Whether somebody else may have to go on than who was chosen."""
        self._is_closing = False
        self._is_halted = False

    def order(self, what: Callable[[], None]) -> None:
        """Let the thread call something quick soon; from any thread."""
        self._orders.put(what)

    def enter(self, act: Act) -> None:
        """Take in a generation."""
        self._join(act)
        act.arrived = next(self._arrivals)
        self._acts[act.number] = act
        if act.is_paused:
            self._tell_paused(act)

    def add_job(self, do: Callable[[], None], *, is_safe: bool) -> None:
        """Take in something else to do.

        Args:
            do: Raises nothing.
            is_safe: Whether it may run between the steps of generations. If not, it waits
                until those that came before it are over or paused.
        """
        self._jobs.append(_Job(do, next(self._arrivals), is_safe))

    def pause(self, act: Act) -> None:
        """Let a generation compute no more until it is unpaused."""
        act.is_paused = True
        if act is not self._current and act.number in self._acts:
            self._tell_paused(act)

    def unpause(self, act: Act) -> None:
        """Let a generation compute again."""
        act.is_paused = False
        if act.number in self._acts:
            self._join(act)
        if act.is_told:
            act.is_told = False
            act.player.unpaused()

    def attend_soon(self, act: Act) -> None:
        """Let a generation get to `Player.attend`, whoever's turn it is."""
        act.has_errand = True

    def close(self) -> None:
        """Let `work` return when all have ended; those that are paused are left."""
        self._is_closing = True
        for act in list(self._acts.values()):
            if act.is_paused and act.has_begun:
                act.has_errand = True
            elif act.is_paused:
                del self._acts[act.number]

    def halt(self) -> None:
        """Let nobody compute any more, since the device does not."""
        self._is_halted = True

    def work(self) -> None:
        """Let everybody compute, until the stage is closed."""
        self._hub = greenlet.getcurrent()
        while True:
            self._take_orders()
            chosen = self._next()
            if isinstance(chosen, Act):
                self._let(chosen)
            elif isinstance(chosen, _Job):
                self._jobs.remove(chosen)
                chosen.do()
            elif self._is_closing and (self._is_halted or not self._acts):
                return
            else:
                self._wait()

    def boundary(self, act: Act) -> None:
        """Let others compute where it is their turn; in the greenlet of a generation.

        What it raises leaves the pipeline.
        """
        # Who came meanwhile joins those who had as much as this one has had before.
        self._take_orders()
        self._account()
        while True:
            act.player.attend()
            if self._is_closing and act.is_paused:
                raise runs.RunCancelled
            # What it took to go on counts from the next boundary: each turn computes something.
            if self._goes_on(act) or not self._makes_way(act):
                return
            self._take_orders()

    def _goes_on(self, act: Act) -> bool:
        if act.is_paused:
            return False
        has_news, self._has_news = self._has_news, False
        if not has_news and self._turn_of == act.number and self._turn_seconds < hub.TURN_SECONDS:
            return True  # Nothing has happened since it was chosen.
        return self._next() is act

    def _makes_way(self, act: Act) -> bool:
        """Let others compute if that is possible; returns when the generation may be next."""
        if act.is_paused:
            self._tell_paused(act)
        if act.player.park():
            assert self._hub is not None, "nobody computes before the stage works"
            self._hub.switch()
            act.player.unpark()
            return True
        if act.is_paused:
            signs = self.pulse.read()
            self._wait()  # Nobody else may compute meanwhile.
            self.pulse.go_on(signs)
            self._computes_since = self._clock()
            return True
        return False

    def _next(self) -> Act | _Job | None:
        """Return who or what has the thread next."""
        job = next((each for each in self._jobs if self._may_run(each)), None)
        if job is not None:
            return job
        errand = next((act for act in self._acts.values() if act.has_errand), None)
        if errand is not None or self._is_halted:
            return errand
        number = hub.choose(
            self._candidates(), current=self._turn_of, turn_seconds=self._turn_seconds
        )
        return None if number is None else self._begin_turn(self._acts[number])

    def _may_run(self, job: _Job) -> bool:
        return job.is_safe or all(
            act.is_paused or act.arrived > job.arrived for act in self._acts.values()
        )

    def _candidates(self) -> list[hub.Candidate]:
        """Return who may compute; none begins that came after a job that waits."""
        first = self._jobs[0].arrived if self._jobs else None
        return [
            act.candidate
            for act in self._acts.values()
            if act.has_begun or first is None or act.arrived < first
        ]

    def _begin_turn(self, act: Act) -> Act:
        if act.number != self._turn_of or self._turn_seconds >= hub.TURN_SECONDS:
            self._turn_of, self._turn_seconds = act.number, 0.0
            act.last_ran = next(self._turns)
        return act

    def _let(self, act: Act) -> None:
        """Let a generation compute until it makes way or ends."""
        resume = surroundings.set_aside()
        if act.greenlet is None:
            act.greenlet = greenlet.greenlet(act.player.play)
            act.greenlet.gr_context = contextvars.copy_context()
            self.pulse.begin(vitals.Activity.RUNNING)
        else:
            assert act.restore is not None, "it was parked"
            assert act.signs is not None, "it was parked"
            act.restore()
            act.restore = None
            self.pulse.go_on(act.signs)
        self._current, self._computes_since = act, self._clock()
        act.greenlet.switch()
        self._account()
        self._current = None
        if act.greenlet.dead:
            del self._acts[act.number]
        else:
            act.restore, act.signs = surroundings.set_aside(), self.pulse.read()
        resume()

    def _account(self) -> None:
        act, now = self._current, self._clock()
        assert act is not None, "somebody computes"
        act.share += now - self._computes_since
        if act.number == self._turn_of:
            self._turn_seconds += now - self._computes_since
        self._computes_since = now

    def _join(self, act: Act) -> None:
        others = [each.candidate for each in self._acts.values() if each is not act]
        share = hub.joining_share(others, act.priority)
        if share is not None:
            act.share = share

    def _tell_paused(self, act: Act) -> None:
        if not act.is_told:
            act.is_told = True
            act.player.paused()

    def _take_orders(self) -> None:
        while not self._orders.empty():
            self._has_news = True
            self._orders.get()()

    def _wait(self) -> None:
        self.pulse.begin(vitals.Activity.IDLE)
        self._has_news = True
        self._orders.get()()

"""Who computes next: properties over simulated generations on one thread."""

import itertools
from dataclasses import dataclass, replace

import hypothesis
import pytest
from hypothesis import strategies

from kubediffusion_worker import hub


@dataclass
class Simulated:
    """A generation that takes steps of one duration."""

    candidate: hub.Candidate
    step_seconds: float
    work: float
    joined: float = 0.0
    began: float | None = None
    ended: float | None = None


class Simulation:
    """Lets generations compute as a stage does, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[int] = []
        self._live: dict[int, Simulated] = {}
        self._current: int | None = None
        self._turn = 0.0
        self._turns = 0
        self._numbers = itertools.count()

    def add(
        self,
        *,
        work: float,
        step_seconds: float = 0.25,
        priority: int = 0,
        deadline: float | None = None,
        is_paused: bool = False,
    ) -> Simulated:
        others = [each.candidate for each in self._live.values()]
        number = next(self._numbers)
        candidate = hub.Candidate(
            number=number,
            priority=priority,
            deadline=deadline,
            share=hub.joining_share(others, priority) or 0.0,
            last_ran=hub.NEVER,
            arrived=number,
            is_paused=is_paused,
        )
        added = Simulated(candidate, step_seconds, work, joined=self.now)
        self._live[number] = added
        return added

    def step(self) -> Simulated | None:
        """Let somebody take one step."""
        number = hub.choose(
            [each.candidate for each in self._live.values()],
            current=self._current,
            turn_seconds=self._turn,
        )
        if number is None:
            return None
        chosen = self._live[number]
        if number != self._current or self._turn >= hub.TURN_SECONDS:
            self._current, self._turn = number, 0.0
            self._turns += 1
            chosen.candidate = replace(chosen.candidate, last_ran=self._turns)
        self._compute(chosen)
        return chosen

    def _compute(self, chosen: Simulated) -> None:
        chosen.began = self.now if chosen.began is None else chosen.began
        self.now += chosen.step_seconds
        self._turn += chosen.step_seconds
        chosen.work -= chosen.step_seconds
        share = chosen.candidate.share + chosen.step_seconds
        chosen.candidate = replace(chosen.candidate, share=share)
        self.ran.append(chosen.candidate.number)
        if chosen.work <= 0:
            chosen.ended = self.now
            del self._live[chosen.candidate.number]


steps = strategies.sampled_from([0.25, 0.5, 1.5, 4.0])
deadlines = strategies.none() | strategies.integers(0, 100).map(float)
works = strategies.integers(1, 8).map(float)
jobs = strategies.lists(strategies.tuples(works, steps, deadlines), min_size=1, max_size=5)


@hypothesis.given(jobs=jobs)
def test_all_of_one_priority_end_in_the_time_that_their_work_takes(
    jobs: list[tuple[float, float, float | None]],
) -> None:
    simulation = Simulation()
    added = [
        simulation.add(work=work, step_seconds=seconds, deadline=deadline)
        for work, seconds, deadline in jobs
    ]
    while simulation.step() is not None:
        pass
    assert all(each.ended is not None for each in added)
    assert simulation.now <= sum(work + seconds for work, seconds, _ in jobs)


@hypothesis.given(deadline=deadlines, seconds=strategies.sampled_from([0.5, 1.0]))
def test_no_stream_of_newcomers_keeps_anybody_waiting_for_ever(
    deadline: float | None, seconds: float
) -> None:
    simulation = Simulation()
    for _ in range(3):
        simulation.add(work=1e9, step_seconds=1.0)
    waiting = simulation.add(work=3.0, step_seconds=1.0)
    while waiting.ended is None and simulation.now < 200.0:
        # As much as can be computed meanwhile, and more urgent.
        simulation.add(work=1.0, step_seconds=seconds, deadline=deadline)
        simulation.step()
    assert waiting.ended is not None


@hypothesis.given(
    priorities=strategies.lists(strategies.integers(-3, 3), min_size=1, max_size=6),
    step_seconds=steps,
)
def test_who_has_the_higher_priority_is_always_first(
    priorities: list[int], step_seconds: float
) -> None:
    simulation = Simulation()
    for priority in priorities:
        simulation.add(work=3.0, priority=priority, step_seconds=step_seconds)
    order: list[int] = []
    while (ran := simulation.step()) is not None:
        order.append(ran.candidate.priority)
    assert order == sorted(order, reverse=True)


def test_who_has_the_higher_priority_ends_the_turn_of_another() -> None:
    simulation = Simulation()
    simulation.add(work=10.0)
    simulation.step()
    urgent = simulation.add(work=1.0, priority=1)
    assert simulation.step() is urgent


@hypothesis.given(jobs=jobs)
def test_who_is_paused_is_never_chosen(jobs: list[tuple[float, float, float | None]]) -> None:
    simulation = Simulation()
    paused = [
        simulation.add(work=work, deadline=0.0, priority=9, is_paused=True) for work, _, _ in jobs
    ]
    other = simulation.add(work=3.0)
    while simulation.step() is not None:
        pass
    assert other.ended is not None
    assert all(each.began is None for each in paused)


@pytest.mark.parametrize("elapsed", [0.25, 1.0, 7.5, 100.0])
@pytest.mark.parametrize("others", [0, 1, 3])
def test_short_one_beside_long_ones_begins_within_a_turn_of_each(
    elapsed: float, others: int
) -> None:
    simulation = Simulation()
    for _ in range(1 + others):
        simulation.add(work=600.0)
    while simulation.now < elapsed:
        simulation.step()
    short = simulation.add(work=1.0)
    while short.ended is None:
        simulation.step()
    assert short.began is not None
    assert short.began - short.joined <= (1 + others) * hub.TURN_SECONDS
    assert short.ended - short.began <= 1.0


@hypothesis.given(given=strategies.lists(deadlines, min_size=2, max_size=6), step_seconds=steps)
def test_earlier_deadlines_are_first_among_those_that_had_as_much(
    given: list[float | None], step_seconds: float
) -> None:
    simulation = Simulation()
    added = [simulation.add(work=1e9, deadline=each) for each in given]
    joined = [
        replace(each.candidate, share=0.0, number=number, arrived=number)
        for number, each in enumerate(added)
    ]
    chosen = hub.choose(joined)
    assert chosen is not None
    known = [each for each in given if each is not None]
    assert given[chosen] == min(known, default=None)


def test_equal_ones_compute_in_turns_of_equal_length() -> None:
    simulation = Simulation()
    simulation.add(work=1e9)
    simulation.add(work=1e9)
    for _ in range(80):
        simulation.step()
    first = simulation.ran[0]
    turns = [simulation.ran[start : start + 4] for start in range(0, 80, 4)]
    assert all(len(set(turn)) == 1 for turn in turns)
    assert simulation.ran.count(first) == 40


def test_nobody_is_chosen_where_there_is_nobody() -> None:
    assert hub.choose([]) is None
    assert hub.joining_share([], 0) is None

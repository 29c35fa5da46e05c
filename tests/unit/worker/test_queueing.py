import collections

import hypothesis
from hypothesis import strategies

from kubediffusion_worker import identity, queueing

Key = identity.GenerationKey


def a_line(**limits: int) -> queueing.WaitingLine:
    return queueing.WaitingLine(queueing.LineLimits(**limits))


def order(line: queueing.WaitingLine) -> list[str]:
    return [key.request_id for key in line]


def serve(line: queueing.WaitingLine) -> list[str]:
    served = []
    while (key := line.pop(lambda engine_id: True)) is not None:
        served.append(key.request_id)
    return served


def test_one_engine_is_served_first_come_first_served() -> None:
    line = a_line()
    for name in ("a", "b", "c"):
        line.push(Key("e", name), priority=0, size=1)
    assert serve(line) == ["a", "b", "c"]


def test_higher_priority_is_served_first() -> None:
    line = a_line()
    line.push(Key("e", "low"), priority=-5, size=1)
    line.push(Key("e", "high"), priority=5, size=1)
    line.push(Key("e", "normal"), priority=0, size=1)
    assert serve(line) == ["high", "normal", "low"]


def test_engines_take_turns() -> None:
    line = a_line()
    for name in ("a1", "a2", "a3"):
        line.push(Key("a", name), priority=0, size=1)
    line.push(Key("b", "b1"), priority=0, size=1)
    assert serve(line) == ["a1", "b1", "a2", "a3"]


def test_a_push_tells_how_many_are_ahead() -> None:
    line = a_line()
    assert line.push(Key("a", "a1"), priority=0, size=1) == 0
    assert line.push(Key("a", "a2"), priority=0, size=1) == 1
    assert line.push(Key("b", "b1"), priority=0, size=1) == 1
    assert line.push(Key("b", "b2"), priority=9, size=1) == 0


def test_an_engine_that_may_not_start_is_passed_over() -> None:
    line = a_line()
    line.push(Key("a", "a1"), priority=9, size=1)
    line.push(Key("b", "b1"), priority=0, size=1)
    assert line.pop(lambda engine_id: engine_id == "b") == Key("b", "b1")
    assert line.pop(lambda engine_id: engine_id == "b") is None


def test_each_bound_is_named_in_the_refusal() -> None:
    line = a_line(max_items=3, max_items_per_engine=2, max_bytes=10)
    assert line.refusal("a", 4) is None
    line.push(Key("a", "a1"), priority=0, size=4)
    assert "4 of at most 10 bytes" in str(line.refusal("a", 7))
    line.push(Key("a", "a2"), priority=0, size=4)
    assert "engine 'a' has 2" in str(line.refusal("a", 1))
    line.push(Key("b", "b1"), priority=0, size=1)
    assert "all 3 places" in str(line.refusal("b", 1))


def test_a_specification_over_the_byte_limit_still_fits_an_empty_line() -> None:
    assert a_line(max_bytes=10).refusal("a", 11) is None


Pushes = strategies.lists(
    strategies.tuples(strategies.sampled_from("abc"), strategies.integers(-1, 1)), max_size=30
)


@hypothesis.given(Pushes)
def test_the_place_told_is_the_place_in_which_it_is_served(pushes: list[tuple[str, int]]) -> None:
    line = a_line()
    for number, (engine_id, priority) in enumerate(pushes):
        key = Key(engine_id, str(number))
        ahead = line.push(key, priority=priority, size=1)
        assert list(line).index(key) == ahead


@hypothesis.given(Pushes, strategies.integers(0, 10))
def test_the_order_told_is_the_order_served(pushes: list[tuple[str, int]], gone: int) -> None:
    line = a_line()
    for number, (engine_id, priority) in enumerate(pushes):
        line.push(Key(engine_id, str(number)), priority=priority, size=2)
    for key in list(line)[:gone]:
        line.remove(key)
    assert line.size == 2 * len(line)
    assert collections.Counter(order(line)) == collections.Counter(set(order(line)))
    assert order(line) == serve(line)
    assert line.size == len(line) == 0

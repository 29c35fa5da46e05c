import pytest

from kubediffusion.cli import news
from kubediffusion.cli.demo import tally


def counted(*items):
    found = tally.Tally()
    for name, kind, *steps in items:
        step, total = steps or (0, 0)
        found.take(news.News(request_id=name, kind=news.Kind(kind), step=step, total=total))
    return found


TWO_DONE = (("a", "started"), ("a", "succeeded"), ("b", "started"), ("b", "succeeded"))


def test_what_began_and_has_not_ended_is_running():
    found = counted(*TWO_DONE, ("c", "started"), ("c", "step", 3, 8), ("d", "queued"))
    assert found.running == {"c": (3, 8)}


def test_a_failure_is_an_end_too():
    found = counted(("a", "started"), ("a", "failed"))
    assert found.running == {}
    assert found.failures == {"a": "failed"}


@pytest.mark.parametrize(("step", "is_moment"), [(3, False), (4, True), (7, True), (8, False)])
def test_the_moment_to_kill_is_when_some_are_done_and_one_is_half_done(step, is_moment):
    found = counted(*TWO_DONE, ("c", "started"), ("c", "step", step, 8))
    assert found.is_moment_to_kill() is is_moment


def test_before_two_are_done_it_is_too_early_to_kill():
    found = counted(*TWO_DONE[:2], ("c", "started"), ("c", "step", 4, 8))
    assert not found.is_moment_to_kill()


def test_workers_have_moved_on_when_all_moved_and_one_ended():
    since = {"a": (3, 8), "b": (4, 8)}
    begun = (("a", "step", 3, 8), ("b", "step", 4, 8))
    assert not counted(*begun).has_moved_on(since)
    assert not counted(*begun, ("a", "step", 4, 8), ("b", "step", 5, 8)).has_moved_on(since)
    assert not counted(*begun, ("a", "succeeded")).has_moved_on(since)
    assert counted(*begun, ("a", "succeeded"), ("b", "step", 5, 8)).has_moved_on(since)


def test_only_what_began_once_and_succeeded_once_counts():
    found = counted(*TWO_DONE, ("b", "started"), ("c", "started"))
    assert found.executed_once() == ["a"]

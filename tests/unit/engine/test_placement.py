"""Who gets the work."""

import dataclasses

import pytest
from hypothesis import given, strategies

from kubediffusion import _placement
from kubediffusion._placement import Candidate, Demand

candidates = strategies.builds(
    Candidate,
    name=strategies.sampled_from(["a", "b", "c", "d"]),
    model=strategies.sampled_from(["", "m", "n"]),
    adapters=strategies.frozensets(strategies.sampled_from(["x", "y"])),
    loading=strategies.frozensets(strategies.sampled_from(["x", "y"])),
    is_serving=strategies.booleans(),
    queued_seconds=strategies.floats(0, 100),
    queued=strategies.integers(0, 5),
    max_queued=strategies.integers(0, 5),
    unreported=strategies.integers(-3, 5),
    in_flight=strategies.integers(0, 40),
)
fleets = strategies.lists(candidates, max_size=4, unique_by=lambda each: each.name)
demands = strategies.builds(
    Demand,
    model=strategies.sampled_from(["", "m"]),
    adapters=strategies.sampled_from([(), ("x",), ("x", "y")]),
)


def choose(demand: Demand, *fleet: Candidate) -> str | None:
    chosen = _placement.choose(demand, fleet, typical_seconds=1.0)
    return None if chosen is None else chosen.name


def test_idle_workers_are_taken_by_name() -> None:
    assert choose(Demand(), Candidate(name="b"), Candidate(name="a")) == "a"


def test_least_work_ahead_wins() -> None:
    busy, idle = Candidate(name="a", queued_seconds=3.0), Candidate(name="b", queued_seconds=2.0)
    assert choose(Demand(), busy, idle) == "b"


def test_resident_adapter_comes_before_less_work() -> None:
    resident = Candidate(name="a", adapters=frozenset({"x"}), queued_seconds=9.0)
    assert choose(Demand(adapters=("x",)), Candidate(name="b"), resident) == "a"


def test_worker_that_loads_the_adapter_is_not_asked_yet() -> None:
    loading = Candidate(name="a", loading=frozenset({"x"}))
    assert choose(Demand(adapters=("x",)), loading) is None
    assert choose(Demand(), loading) == "a"


def test_what_was_sent_since_the_last_report_counts() -> None:
    told = Candidate(name="a", unreported=2)
    assert choose(Demand(), told, Candidate(name="b", queued_seconds=1.0)) == "b"


def test_full_queue_is_left_alone() -> None:
    assert choose(Demand(), Candidate(name="a", queued=4, max_queued=4)) is None


def test_only_so_many_submits_are_in_the_air() -> None:
    assert choose(Demand(), Candidate(name="a", in_flight=_placement.MAX_IN_FLIGHT)) is None


@pytest.mark.parametrize(
    ("served", "wanted", "fits"),
    [
        ("sdxl", "sdxl", True),
        ("sdxl", "/models/sdxl", True),
        ("org/sdxl", "org/sdxl", True),
        ("sdxl", "flux", False),
        ("sdxl", "", True),
        ("", "sdxl", True),
    ],
)
def test_models_are_known_by_their_last_name(served: str, wanted: str, fits: bool) -> None:
    assert _placement.serves(served, wanted) is fits


@given(demands, fleets)
def test_choice_is_able_and_no_able_one_is_better(demand: Demand, fleet: list[Candidate]) -> None:
    chosen = _placement.choose(demand, fleet, typical_seconds=1.0)
    able = [each for each in fleet if _placement.is_able(demand, each)]
    assert (chosen is None) == (not able)
    if chosen is not None:
        assert chosen in able
        lacks = len(set(demand.adapters) - chosen.adapters)
        assert all(len(set(demand.adapters) - each.adapters) >= lacks for each in able)


@given(demands, fleets)
def test_order_of_the_workers_does_not_matter(demand: Demand, fleet: list[Candidate]) -> None:
    one = _placement.choose(demand, fleet, typical_seconds=1.0)
    other = _placement.choose(demand, list(reversed(fleet)), typical_seconds=1.0)
    assert one == other


@given(strategies.integers(1, 200), strategies.integers(1, 8))
def test_burst_is_spread_evenly_over_equal_workers(requests: int, workers: int) -> None:
    fleet = [Candidate(name=str(number)) for number in range(workers)]
    for _ in range(requests):
        chosen = _placement.choose(Demand(), fleet, typical_seconds=1.0)
        assert chosen is not None
        fleet[fleet.index(chosen)] = dataclasses.replace(chosen, unreported=chosen.unreported + 1)
    counts = [each.unreported for each in fleet]
    assert max(counts) - min(counts) <= 1


@given(strategies.integers(1, 1000), strategies.floats(0, 1, exclude_max=True))
def test_pauses_are_bounded_and_grow(failures: int, jitter: float) -> None:
    pause = _placement.backoff(failures, jitter)
    assert 0.025 <= pause <= 10.0
    assert _placement.backoff(failures + 1, jitter) >= pause


WORK = Demand(fingerprint="f", worth=20.0)


def test_same_fingerprint_is_worth_a_wait() -> None:
    same = Candidate(name="b", fingerprint="f", can_resume=True, queued_seconds=9.0)
    other = Candidate(name="a", fingerprint="g", can_resume=True)
    assert choose(WORK, other, same) == "b"


def test_no_wait_is_longer_than_the_work_that_a_checkpoint_saves() -> None:
    same = Candidate(name="b", fingerprint="f", can_resume=True, queued_seconds=21.0)
    unable = Candidate(name="a", fingerprint="f")
    assert choose(WORK, unable, same) == "a"


def test_strict_request_takes_no_other_fingerprint() -> None:
    other = Candidate(name="a", fingerprint="g", can_resume=True)
    strict = WORK._replace(is_strict=True)
    assert choose(strict, other) is None
    assert "fingerprint" in _placement.why_stranded(strict, [other])


def test_full_worker_strands_nobody() -> None:
    full = Candidate(name="a", queued=5, max_queued=5)
    assert choose(Demand(), full) is None
    assert not _placement.why_stranded(Demand(), [full])
    assert _placement.why_stranded(Demand(), [])
    assert "model" in _placement.why_stranded(Demand(model="n"), [Candidate(name="a", model="m")])

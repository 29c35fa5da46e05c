"""What is done about what workers turn out to hold."""

import pytest
from hypothesis import given, strategies

from kubediffusion import _reattach
from kubediffusion._reattach import Verdict
from kubediffusion_proto.v1 import worker_pb2

ids = strategies.sampled_from(["r1", "r2", "r3", "r4"])
states = strategies.sampled_from(
    [
        worker_pb2.GENERATION_STATE_QUEUED,
        worker_pb2.GENERATION_STATE_RUNNING,
        worker_pb2.GENERATION_STATE_PARKED,
        worker_pb2.GENERATION_STATE_SUCCEEDED,
        worker_pb2.GENERATION_STATE_FAILED,
        worker_pb2.GENERATION_STATE_CANCELLED,
        worker_pb2.GENERATION_STATE_HANDED_OVER,
    ]
)


def listed(
    name: str, state: worker_pb2.GenerationState, digest: str = "d"
) -> worker_pb2.Generation:
    return worker_pb2.Generation(request_id=name, state=state, spec_digest=digest)


def verdicts(
    generations: list[worker_pb2.Generation],
    known: dict[str, str] | None = None,
    ended: set[str] | None = None,
    expected: list[str] | None = None,
) -> dict[str, Verdict]:
    decisions = _reattach.merge(
        generations, known=known or {}, ended=ended or set(), expected=expected or []
    )
    assert len({decision.request_id for decision in decisions}) == len(decisions)
    return {decision.request_id: decision.verdict for decision in decisions}


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (worker_pb2.GENERATION_STATE_QUEUED, Verdict.WATCH),
        (worker_pb2.GENERATION_STATE_RUNNING, Verdict.WATCH),
        (worker_pb2.GENERATION_STATE_PARKED, Verdict.WATCH),
        (worker_pb2.GENERATION_STATE_SUCCEEDED, Verdict.FETCH),
        (worker_pb2.GENERATION_STATE_FAILED, Verdict.SETTLE),
        (worker_pb2.GENERATION_STATE_CANCELLED, Verdict.SETTLE),
        (worker_pb2.GENERATION_STATE_HANDED_OVER, Verdict.SETTLE),
    ],
)
def test_known_generation_goes_on_from_its_state(
    state: worker_pb2.GenerationState, verdict: Verdict
) -> None:
    assert verdicts([listed("r1", state)], known={"r1": "d"}) == {"r1": verdict}


def test_unknown_generation_is_adopted() -> None:
    found = [listed("r1", worker_pb2.GENERATION_STATE_RUNNING)]
    assert verdicts(found) == {"r1": Verdict.ADOPT}


def test_ended_generation_is_forgotten_there_too() -> None:
    found = [listed("r1", worker_pb2.GENERATION_STATE_SUCCEEDED)]
    assert verdicts(found, ended={"r1"}) == {"r1": Verdict.FORGET}


def test_missing_generation_is_sent_again() -> None:
    assert verdicts([], known={"r1": "d"}, expected=["r1"]) == {"r1": Verdict.RESUBMIT}


def test_other_content_under_a_known_id_is_a_conflict() -> None:
    found = [listed("r1", worker_pb2.GENERATION_STATE_RUNNING, digest="other")]
    assert verdicts(found, known={"r1": "d"}) == {"r1": Verdict.CONFLICT}


@given(
    strategies.dictionaries(ids, states),
    strategies.dictionaries(ids, strategies.sampled_from(["", "d", "e"])),
    strategies.sets(ids),
    strategies.lists(ids, unique=True),
)
def test_everything_listed_or_expected_gets_one_verdict(
    found: dict[str, worker_pb2.GenerationState],
    known: dict[str, str],
    ended: set[str],
    expected: list[str],
) -> None:
    generations = [listed(name, state) for name, state in found.items()]
    given = verdicts(generations, known, ended, expected)
    assert set(given) == set(found) | set(expected)
    for name in found:
        assert (given[name] is Verdict.FORGET) == (name in ended)
    for name in set(expected) - set(found):
        assert given[name] is Verdict.RESUBMIT


@given(
    strategies.integers(0, 2**60),
    strategies.lists(strategies.integers(0, 2**60), max_size=5),
    strategies.floats(0, 2**40),
)
def test_epoch_is_above_all_that_are_known(journal: int, reported: list[int], now: float) -> None:
    epoch = _reattach.next_epoch(journal, reported, now)
    assert all(epoch > other for other in [journal, *reported])
    assert epoch >= int(now * 1000)


def test_epoch_is_the_next_one_where_clocks_do_not_matter() -> None:
    assert _reattach.next_epoch(7, [3, 9], 0.0) == 10

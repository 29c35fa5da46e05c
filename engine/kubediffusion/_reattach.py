"""What a worker holds against what this engine knows: a pure merge.

Done whenever a worker is reached, for the first time or again. Workers are the truth for
what they hold; the engine is the truth for what has ended.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from kubediffusion_proto.v1 import worker_pb2

MAX_EPOCH = 2**63 - 1
"""What a database can hold; a worker that tells of more is wrong."""


class Verdict(enum.Enum):
    """What to do about a generation."""

    WATCH = "watch"
    """It is alive there and known here."""
    FETCH = "fetch"
    """It succeeded there and is awaited here."""
    SETTLE = "settle"
    """It ended there in another way and is awaited here."""
    ADOPT = "adopt"
    """It is there under our id and unknown here."""
    RESUBMIT = "resubmit"
    """It should be there and is not."""
    FORGET = "forget"
    """It is there and has ended here already."""
    CONFLICT = "conflict"
    """It is there under an id that stands for another request here."""


class Decision(NamedTuple):
    """A verdict on one generation."""

    verdict: Verdict
    request_id: str
    generation: worker_pb2.Generation | None = None
    """As the worker listed it; None where it did not."""


_ALIVE = frozenset(
    {
        worker_pb2.GENERATION_STATE_QUEUED,
        worker_pb2.GENERATION_STATE_RUNNING,
        worker_pb2.GENERATION_STATE_PARKED,
    }
)


def merge(
    listed: Iterable[worker_pb2.Generation],
    *,
    known: Mapping[str, str],
    ended: Collection[str],
    expected: Iterable[str],
) -> list[Decision]:
    """Decide on every generation that a worker holds, or should hold.

    Args:
        listed: What the worker holds of this engine id.
        known: Digests of all unfinished requests by id; an empty one matches any.
        ended: Ids among the listed ones that have ended for this engine.
        expected: Ids that the worker had accepted before it was asked.

    Returns:
        One decision for each listed generation, then one for each expected id that is not
        listed.
    """
    decisions = [_judge(generation, known, ended) for generation in listed]
    found = {decision.request_id for decision in decisions}
    missing = [request_id for request_id in expected if request_id not in found]
    return decisions + [Decision(Verdict.RESUBMIT, request_id) for request_id in missing]


def _judge(
    generation: worker_pb2.Generation, known: Mapping[str, str], ended: Collection[str]
) -> Decision:
    return Decision(_verdict(generation, known, ended), generation.request_id, generation)


def _verdict(
    generation: worker_pb2.Generation, known: Mapping[str, str], ended: Collection[str]
) -> Verdict:
    if generation.request_id in ended:
        return Verdict.FORGET
    digest = known.get(generation.request_id)
    if digest is None:
        return Verdict.ADOPT
    if digest and generation.spec_digest and digest != generation.spec_digest:
        return Verdict.CONFLICT
    if generation.state in _ALIVE:
        return Verdict.WATCH
    if generation.state == worker_pb2.GENERATION_STATE_SUCCEEDED:
        return Verdict.FETCH
    return Verdict.SETTLE


def next_epoch(journal: int, reported: Iterable[int], now: float) -> int:
    """Return the epoch of a new start.

    It is above every epoch that the journal or a reachable worker knows. It is also not
    below the clock, in milliseconds, so that a worker that is reached only later does not
    take an older start for the newer one.

    Args:
        journal: Of the last start with this journal; 0 where there was none.
        reported: By workers, of this engine id.
        now: Unix time.
    """
    known = max(journal, *reported, int(now * 1000) - 1)
    return min(known, MAX_EPOCH - 1) + 1

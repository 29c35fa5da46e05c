"""Who computes next, of the generations that share the compute thread.

Higher priority first. Among equals, turns of about a second: who had the fewest goes next, of
these the one with the earliest deadline, of these the one that has waited longest. A newcomer
starts one turn behind the one that had the fewest: it need not wait until the others are done,
and no stream of newcomers can keep anybody waiting for ever.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

TURN_SECONDS = 1.0
"""Of computing, after which others of the same priority go on. A step is never cut short."""

NEVER = -1
"""Instead of when a generation last computed, before it does so for the first time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What is known of a generation that could compute."""

    number: int
    priority: int
    """Larger goes first."""
    deadline: float | None
    """By any clock that is the same for all; None: without one."""
    share: float
    """Seconds that it has computed, counted from where it joined the others."""
    last_ran: int
    """Grows with each turn of anybody; `NEVER` before its first one."""
    arrived: int
    """Grows with each arrival."""
    is_paused: bool = False


def choose(
    candidates: Collection[Candidate], *, current: int | None = None, turn_seconds: float = 0.0
) -> int | None:
    """Returns the number of who computes next; None where there is nobody to.

    Args:
        candidates: All that could compute.
        current: Who has computed last.
        turn_seconds: For how long it has, in this turn.
    """
    peers = _peers(candidates)
    if turn_seconds < TURN_SECONDS and any(each.number == current for each in peers):
        return current
    return min(peers, key=_order).number if peers else None


def joining_share(candidates: Collection[Candidate], priority: int) -> float | None:
    """Returns the share that one starts with who joins those that could compute.

    Args:
        candidates: The others.
        priority: Of the one that joins.

    Returns:
        None where nobody of its priority could compute: whatever it has had does not matter.
    """
    others = [
        _turns(each) for each in candidates if each.priority == priority and not each.is_paused
    ]
    return (min(others) + 1) * TURN_SECONDS if others else None


def _peers(candidates: Collection[Candidate]) -> list[Candidate]:
    ready = [each for each in candidates if not each.is_paused]
    top = max((each.priority for each in ready), default=0)
    return [each for each in ready if each.priority == top]


def _order(candidate: Candidate) -> tuple[int, float, int, int]:
    deadline = math.inf if candidate.deadline is None else candidate.deadline
    return _turns(candidate), deadline, candidate.last_ran, candidate.arrived


def _turns(candidate: Candidate) -> int:
    return int(candidate.share / TURN_SECONDS)

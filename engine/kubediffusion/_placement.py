"""Which worker gets a request: a pure function of what is known of the workers.

Work goes to a worker's own queue at once, where it survives the engine; a request is held
back only while no worker takes it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

MAX_IN_FLIGHT = 32
"""Submits to one worker whose answer is awaited; bounds what a burst has in the air."""


class Demand(NamedTuple):
    """What a request needs of a worker."""

    model: str = ""
    """Empty: any."""
    adapters: tuple[str, ...] = ()
    """Names of LoRA adapters."""
    fingerprint: str = ""
    """Of the worker that took the checkpoint to go on from; empty: there is none."""
    worth: float = 0.0
    """Seconds of work that the checkpoint stands for."""
    is_strict: bool = False
    """Whether only a worker with that fingerprint will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A worker as the engine sees it now."""

    name: str
    model: str = ""
    """The folder name or hub id that it was started with."""
    adapters: frozenset[str] = frozenset()
    """Resident ones."""
    loading: frozenset[str] = frozenset()
    """Those that it will have in a moment."""
    is_serving: bool = True
    """Connected, its model loaded, not draining, and not told to be left alone for now."""
    queued_seconds: float = 0.0
    """Work ahead of a new request, by its own last report."""
    queued: int = 0
    """Requests of all engines in its queue, as far as this engine knows."""
    max_queued: int = 0
    """Bound on `queued`; 0: none is known."""
    unreported: int = 0
    """Requests that this engine sent since its last report, less those that ended."""
    in_flight: int = 0
    """Requests of this engine whose answer is awaited."""
    fingerprint: str = ""
    """Names what its results depend on bit for bit; empty where it did not tell."""
    can_resume: bool = False
    """Whether it goes on from checkpoints, instead of beginning anew."""
    is_hopeful: bool = True
    """Whether it takes work, now or as soon as it has loaded its model or has room."""


def choose(
    demand: Demand, candidates: Iterable[Candidate], *, typical_seconds: float
) -> Candidate | None:
    """Return the worker that takes a request soonest; None where none does now.

    Resident adapters come first, then the least seconds of work ahead, then the name, so
    that equal situations give equal answers. A checkpoint makes the workers count as busier
    that cannot go on from it, or not bit for bit: never by more than the work it stands for.

    Args:
        demand: What the request needs.
        candidates: All workers.
        typical_seconds: Of work in one request, for those that no report tells of yet.
    """
    able = [candidate for candidate in candidates if is_able(demand, candidate)]
    if not able:
        return None
    wanted = frozenset(demand.adapters)

    def rank(candidate: Candidate) -> tuple[int, float, str]:
        absent = len(wanted - candidate.adapters)
        ahead = candidate.queued_seconds + candidate.unreported * typical_seconds
        return absent, max(0.0, ahead) + detour(demand, candidate), candidate.name

    return min(able, key=rank)


def detour(demand: Demand, candidate: Candidate) -> float:
    """Return what a worker costs a request that has a checkpoint, in seconds."""
    if not demand.fingerprint:
        return 0.0
    if not candidate.can_resume:
        return demand.worth
    return 0.0 if candidate.fingerprint == demand.fingerprint else demand.worth / 2


def why_stranded(demand: Demand, candidates: Iterable[Candidate]) -> str:
    """Say why no worker will take a request as things are; empty where one will in time."""
    hopeful = [candidate for candidate in candidates if candidate.is_hopeful]
    if not hopeful:
        return "no worker is connected that takes new work"
    fitting = [each for each in hopeful if serves(each.model, demand.model)]
    if not fitting:
        return f"no connected worker serves the model {demand.model!r}"
    if not any(_is_exact_enough(demand, candidate) for candidate in fitting):
        return (
            "no connected worker has the fingerprint of the checkpoint, and the request's "
            "min_exactness is 'exact'"
        )
    return ""


def _is_exact_enough(demand: Demand, candidate: Candidate) -> bool:
    return not demand.is_strict or candidate.fingerprint in ("", demand.fingerprint)


def is_able(demand: Demand, candidate: Candidate) -> bool:
    """Tell whether a worker would take a request now."""
    has_room = not candidate.max_queued or candidate.queued < candidate.max_queued
    return (
        candidate.is_serving
        and candidate.in_flight < MAX_IN_FLIGHT
        and has_room
        and candidate.loading.isdisjoint(demand.adapters)
        and serves(candidate.model, demand.model)
        and _is_exact_enough(demand, candidate)
    )


def serves(model: str, wanted: str) -> bool:
    """Tell whether a worker's model is the wanted one; where either is unknown, it is.

    A folder is known by its last name on the worker, and perhaps by its whole path here.
    """
    if not wanted or not model or model == wanted:
        return True
    return pathlib.PurePath(model).name == pathlib.PurePath(wanted).name


def backoff(failures: int, jitter: float) -> float:
    """Return the seconds to wait after a number of failures in a row.

    Args:
        failures: From 1.
        jitter: Drawn from [0, 1), so that many requests do not come back at once.
    """
    return float(min(0.05 * 2.0 ** min(failures - 1, 10), 10.0) * (0.5 + 0.5 * jitter))

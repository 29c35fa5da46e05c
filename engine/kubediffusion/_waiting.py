"""Requests that no worker has yet, in the order in which they are to go out."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kubediffusion import _placement, _tracker

if TYPE_CHECKING:
    from kubediffusion import _record


class WaitingRoom:
    """Holds requests back while no worker takes them: by priority, then first come.

    Those with the same demand wait in one line, so that one request that no worker can
    serve does not hold up the others, and a full house costs one look for each demand.
    """

    def __init__(self) -> None:
        self._lines: dict[_placement.Demand, list[tuple[int, int, _record.Record]]] = {}
        self._present: set[str] = set()
        self._stranded: set[_placement.Demand] = set()
        self._fresh: list[tuple[_placement.Demand, _record.Record]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._present)

    def add(self, record: _record.Record) -> None:
        """Let a request wait; once, however often it is added."""
        if record.request_id in self._present:
            return
        self._present.add(record.request_id)
        line = self._lines.setdefault(record.demand, [])
        heapq.heappush(line, (-record.priority, next(self._numbers), record))
        self._fresh.append((record.demand, record))

    def stranded(
        self, candidates: Sequence[_placement.Candidate]
    ) -> Iterator[tuple[_record.Record, str]]:
        """Yield requests that no worker will take as things are, each once, and why."""
        fresh, self._fresh = self._fresh, []
        reasons = {
            demand: reason
            for demand in self._lines
            if (reason := _placement.why_stranded(demand, candidates))
        }
        former, self._stranded = self._stranded, set(reasons)
        for demand, record in fresh:
            if demand in former and demand in reasons:
                yield record, reasons[demand]
        for demand in self._stranded - former:
            for _, _, record in self._lines[demand]:
                yield record, reasons[demand]

    def next(
        self, candidates: Sequence[_placement.Candidate], *, typical_seconds: float
    ) -> tuple[_record.Record, _placement.Candidate] | None:
        """Take out a request that a worker takes now, with that worker; None: there is none."""
        for demand, line in list(self._lines.items()):
            self._drop_gone(line)
            if not line:
                del self._lines[demand]
                continue
            chosen = _placement.choose(demand, candidates, typical_seconds=typical_seconds)
            if chosen is not None:
                _, _, record = heapq.heappop(line)
                self._present.discard(record.request_id)
                return record, chosen
        return None

    def _drop_gone(self, line: list[tuple[int, int, _record.Record]]) -> None:
        """Remove those from the head that were cancelled or turned up elsewhere."""
        while line and not _is_waiting(line[0][2]):
            _, _, record = heapq.heappop(line)
            self._present.discard(record.request_id)


def _is_waiting(record: _record.Record) -> bool:
    return record.tracker.phase is _tracker.Phase.WAITING and not record.tracker.is_paused

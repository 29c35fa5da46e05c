"""Giving out the requests that wait, as soon as workers take them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from kubediffusion import _placement, _stimuli, _tracker, _waiting

if TYPE_CHECKING:
    from kubediffusion import _fleet, _record

SMOOTHING = 0.1
"""Weight of the newest result in the estimate of what one takes."""


class Dispatcher:
    """Matches requests that wait with workers, once all news has been taken in.

    Args:
        fleet: The workers.
        feed: Tells a tracker what happened.
        may_give_out: Whether work may go out now.
    """

    def __init__(
        self,
        fleet: _fleet.Fleet,
        feed: Callable[[_record.Record, _stimuli.Stimulus], None],
        may_give_out: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._feed = feed
        self._may_give_out = may_give_out
        self._waiting = _waiting.WaitingRoom()
        self._is_due = False
        self._typical_seconds = 1.0

    def add(self, record: _record.Record, failures: int = 0) -> None:
        """Find a worker for a request, after a pause that grows with the failures."""
        if failures:
            pause = _placement.backoff(failures, random.random())
            asyncio.get_running_loop().call_later(pause, self.add, record)
            return
        record.set_demand()
        self._waiting.add(record)
        self.pump()

    def learn(self, seconds: float) -> None:
        """Take note of what one generation took."""
        self._typical_seconds += SMOOTHING * (seconds - self._typical_seconds)

    def pump(self) -> None:
        """Look for workers soon."""
        if not self._is_due and self._may_give_out():
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._is_due = False
        sessions = {session.link.name: session for session in self._fleet.attached}
        candidates = {name: session.candidate() for name, session in sessions.items()}
        while self._may_give_out():
            pair = self._waiting.next(
                tuple(candidates.values()), typical_seconds=self._typical_seconds
            )
            if pair is None:
                break
            record, chosen = pair
            record.waiting_for = ""
            session = sessions[chosen.name]
            self._feed(record, _stimuli.Assigned(session.seat))
            # The others are as they were; with many workers that saves most of the time.
            candidates[chosen.name] = session.candidate()
        for record, reason in self._waiting.stranded(tuple(candidates.values())):
            if reason != record.waiting_for and record.tracker.phase is _tracker.Phase.WAITING:
                record.waiting_for = reason
                record.note("waiting", "", reason=reason)

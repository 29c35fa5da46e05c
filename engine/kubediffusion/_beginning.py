"""The first moments of an engine: which epoch it has, and when work may go out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubediffusion import _journal, _reattach, errors

if TYPE_CHECKING:
    from kubediffusion import _session

logger = logging.getLogger(__name__)

INTRODUCTION_SECONDS = 1.0
"""That workers get to report their highest epoch before this start takes its own."""

SETTLE_SECONDS = 2.0
"""That workers get to say what they hold before new work is given out."""


class Beginning:
    """Waits for the first set of workers, so that this start outranks all before it.

    Args:
        journal: Knows the epoch of the last start with the same state.
    """

    def __init__(self, journal: _journal.Journal) -> None:
        self.has_begun = asyncio.Event()
        """Set once the epoch is known: from then on workers may be told of it."""
        self.has_settled = asyncio.Event()
        """Set once the first workers have said what they hold, or do not answer."""
        self.epoch = 0
        self._journal = journal
        self._reported = [0]

    def take_report(self, epoch: int) -> None:
        """Take note of the highest epoch that a worker knows."""
        self._reported.append(epoch)

    async def settled(self) -> None:
        """Wait until the first workers have said what they hold; bounded."""
        with contextlib.suppress(TimeoutError):
            limit = INTRODUCTION_SECONDS + SETTLE_SECONDS
            await asyncio.wait_for(self.has_settled.wait(), limit)

    async def take_epoch(self, first: Sequence[_session.Session]) -> int:
        """Return an epoch above all that the journal and the first workers know."""
        await _all_set([each.is_introduced for each in first], INTRODUCTION_SECONDS)
        self.epoch = _reattach.next_epoch(self._journal.epoch, self._reported, time.time())
        try:
            self._journal.raise_epoch(self.epoch)
        except errors.JournalError as error:
            logger.error("journal cannot be written", extra={"cause": error.message})
        return self.epoch

    async def settle(self, first: Sequence[_session.Session]) -> None:
        """Wait until the first workers were compared with the journal; bounded."""
        await _all_set([each.is_settled for each in first], SETTLE_SECONDS)
        self.has_settled.set()


async def _all_set(events: Sequence[asyncio.Event], timeout: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            for event in events:
                await event.wait()

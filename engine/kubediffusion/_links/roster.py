"""The current links of an executor, and who is told when they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from kubediffusion._links import protocol


class LinkRoster:
    """A `LinkSource` that an executor fills.

    Belongs to the engine's loop, except for `current`, which any thread may read.
    """

    def __init__(self) -> None:
        self._links: tuple[protocol.WorkerLink, ...] = ()
        self._is_closed = False
        self._followers: set[asyncio.Event] = set()

    @property
    def current(self) -> tuple[protocol.WorkerLink, ...]:
        """The links as of now, in the order of ranks."""
        return self._links

    def publish(self, links: Sequence[protocol.WorkerLink]) -> None:
        """Replace the links and tell the followers, also where the set is the same."""
        self._links = tuple(links)
        self._wake()

    def close(self) -> None:
        """End all streams of changes; the current links stay readable."""
        self._is_closed = True
        self._wake()

    async def changes(self) -> AsyncIterator[tuple[protocol.WorkerLink, ...]]:
        """Yield the links now and after every change, the latest only."""
        news = asyncio.Event()
        self._followers.add(news)
        try:
            while not self._is_closed:
                news.clear()
                yield self._links
                await news.wait()
        finally:
            self._followers.discard(news)

    def _wake(self) -> None:
        for news in self._followers:
            news.set()

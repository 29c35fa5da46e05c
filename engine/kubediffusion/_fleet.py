"""The conversations with all workers of an engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubediffusion import _session, _stimuli

if TYPE_CHECKING:
    from kubediffusion._links import protocol

logger = logging.getLogger(__name__)


class Fleet:
    """Opens a session for each link, and ends those of no more interest.

    Args:
        host: The engine's core.
        takeover_seconds: Out of reach for so long, a worker is given up.
    """

    def __init__(self, host: _session.Host, *, takeover_seconds: float) -> None:
        self._host = host
        self._takeover_seconds = takeover_seconds
        self._tasks: dict[_session.Session, asyncio.Task[None]] = {}

    @property
    def sessions(self) -> tuple[_session.Session, ...]:
        """All conversations, in the executor's order."""
        return tuple(self._tasks)

    @property
    def attached(self) -> tuple[_session.Session, ...]:
        """Those with workers that are within reach."""
        return tuple(session for session in self._tasks if session.is_attached)

    def follow(self, links: Sequence[protocol.WorkerLink]) -> None:
        """Take the full set of links."""
        known = {id(session.link): session for session in self._tasks}
        for link in links:
            if id(link) not in known:
                self._open(link)
        listed = {id(link) for link in links}
        for identity, session in known.items():
            session.is_listed = identity in listed
            session.poke()
        self.reap()

    def at(self, seat: _stimuli.Seat) -> _session.Session | None:
        """Return the session with a worker in a certain life, within reach if possible."""
        found = [each for each in self._tasks if each.worker.incarnation == seat.incarnation]
        attached = [session for session in found if session.is_attached]
        return next(iter(attached or found), None)

    def reap(self) -> None:
        """End conversations with workers that left and have nothing of ours."""
        for session, task in list(self._tasks.items()):
            is_over = not session.is_listed and not self._host.is_needed(session)
            if is_over and not task.cancelling():
                if session.link.is_gone:
                    self._host.lose(session, is_dead=True)
                task.cancel()

    def cancel(self) -> None:
        """End all conversations."""
        for task in self._tasks.values():
            task.cancel()

    async def closed(self, budget: float) -> None:
        """Wait until all conversations have ended, for some seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=budget)

    def _open(self, link: protocol.WorkerLink) -> None:
        session = _session.Session(link, self._host, takeover_seconds=self._takeover_seconds)
        task = asyncio.get_running_loop().create_task(session.run())
        self._tasks[session] = task
        task.add_done_callback(lambda ended: self._closed(session, ended))

    def _closed(self, session: _session.Session, task: asyncio.Task[None]) -> None:
        self._tasks.pop(session, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("conversation with a worker failed", exc_info=task.exception())
        self._host.take_change(session)

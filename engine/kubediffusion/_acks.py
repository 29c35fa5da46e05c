"""Telling workers that they may forget a generation, and when.

Where results are on disk, that is at once. Where they are in memory alone, it is a moment
after the user was given the result: should this process die before, the worker still has it.
So that results nobody asks for do not fill a worker, a bounded number waits for its user.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kubediffusion import _stimuli

LINGER_SECONDS = 1.0
"""Between giving out a result and letting the worker forget it."""

MAX_HELD = 512
"""Results on one worker that wait for their user; half of what it keeps by default."""

MAX_HELD_SHARE = 0.5
"""Of the bytes that a worker keeps, likewise."""


class Held(NamedTuple):
    """A generation whose worker must not forget it yet."""

    seat: _stimuli.Seat
    size: int


class Acknowledgements:
    """Decides when an acknowledgement goes out.

    Args:
        send: Sends one.
        max_bytes: Returns the bytes that the worker of a seat keeps; 0 where unknown.
    """

    def __init__(
        self,
        send: Callable[[str, _stimuli.Seat], None],
        max_bytes: Callable[[_stimuli.Seat], int],
    ) -> None:
        self._send = send
        self._max_bytes = max_bytes
        self._held: dict[str, collections.OrderedDict[str, Held]] = {}
        self._bytes: collections.Counter[str] = collections.Counter()
        self._leaving: list[tuple[str, _stimuli.Seat]] = []
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, request_id: str, seat: _stimuli.Seat, size: int) -> None:
        """Let the worker keep a result until it has been given out."""
        held = self._held.setdefault(seat.incarnation, collections.OrderedDict())
        held[request_id] = Held(seat, size)
        self._bytes[seat.incarnation] += size
        limit = self._max_bytes(seat) * MAX_HELD_SHARE
        while len(held) > MAX_HELD or (limit and self._bytes[seat.incarnation] > limit):
            oldest, item = held.popitem(last=False)
            self._bytes[seat.incarnation] -= item.size
            self._send(oldest, item.seat)

    def release(self, request_id: str) -> None:
        """Let the worker forget a result soon: it was given out."""
        for incarnation, held in self._held.items():
            item = held.pop(request_id, None)
            if item is not None:
                self._bytes[incarnation] -= item.size
                self._leaving.append((request_id, item.seat))
        if self._leaving and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LINGER_SECONDS, self.flush)

    def flush(self) -> None:
        """Send what was released."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        leaving, self._leaving = self._leaving, []
        for request_id, seat in leaving:
            self._send(request_id, seat)

    def drop(self, incarnation: str) -> None:
        """Forget a life that is over: there is nothing left to acknowledge."""
        self._held.pop(incarnation, None)
        self._bytes.pop(incarnation, None)

    def holds(self, request_id: str, seat: _stimuli.Seat) -> bool:
        """Tell whether a worker is to keep a generation for now."""
        is_leaving = any(request_id == other for other, _ in self._leaving)
        return is_leaving or request_id in self._held.get(seat.incarnation, ())

    def holds_any(self, incarnation: str) -> bool:
        """Tell whether a worker keeps something for us."""
        return bool(self._held.get(incarnation))

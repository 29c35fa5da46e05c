"""The waiting line: higher priority first, then engines in turn, then first come.

Engines take turns so that one with a thousand requests does not starve one with a single
request. All bounds are counted here; the line holds keys, never specifications.
"""

import collections
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kubediffusion_worker import identity


@dataclass(frozen=True, kw_only=True, slots=True)
class LineLimits:
    """Bounds of the waiting line."""

    max_items: int = 2048
    """Generations over all engines."""
    max_items_per_engine: int = 1024
    """Generations of one engine id; half of the line, so that two engines fit."""
    max_bytes: int = 256_000_000
    """Sum of the sizes of the waiting specifications, which may carry images."""

    def __post_init__(self) -> None:
        """Refuse bounds that would refuse everything."""
        if min(self.max_items, self.max_items_per_engine, self.max_bytes) < 1:
            raise ValueError("the bounds of the waiting line must be positive")


@dataclass(frozen=True, slots=True)
class _Place:
    priority: int
    size: int


class WaitingLine:
    """Keys of generations that wait for the compute thread."""

    def __init__(self, limits: LineLimits) -> None:
        self._limits = limits
        # The order of a level's dict is the order of turns.
        self._levels: dict[int, dict[str, collections.deque[identity.GenerationKey]]] = {}
        self._places: dict[identity.GenerationKey, _Place] = {}
        self._held: set[identity.GenerationKey] = set()
        self._by_engine: collections.Counter[str] = collections.Counter()
        self._size = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: identity.GenerationKey) -> bool:
        return key in self._places

    @property
    def size(self) -> int:
        """Bytes of all waiting specifications."""
        return self._size

    def waiting_of(self, engine_id: str) -> int:
        """Count the waiting generations of one engine id."""
        return self._by_engine[engine_id]

    def refusal(self, engine_id: str, size: int) -> str | None:
        """Say which bound one more generation would break, if any.

        Args:
            engine_id: Whose generation it would be.
            size: Bytes of its specification.
        """
        limits = self._limits
        if len(self) >= limits.max_items:
            return f"all {limits.max_items} places of the queue are taken"
        if self._by_engine[engine_id] >= limits.max_items_per_engine:
            return f"engine {engine_id!r} has {limits.max_items_per_engine} waiting generations"
        if self._size + size > limits.max_bytes and self._places:
            return f"the queue holds {self._size} of at most {limits.max_bytes} bytes"
        return None

    def push(self, key: identity.GenerationKey, *, priority: int, size: int) -> int:
        """Let a generation wait.

        Returns:
            How many generations are ahead of it.
        """
        turns = self._levels.setdefault(priority, {})
        turns.setdefault(key.engine_id, collections.deque()).append(key)
        self._places[key] = _Place(priority, size)
        self._by_engine[key.engine_id] += 1
        self._size += size
        return self._count_ahead(key.engine_id, priority)

    def pop(
        self,
        is_allowed: Callable[[str], bool],
        has_slot: Callable[[int], bool] = lambda priority: True,
    ) -> identity.GenerationKey | None:
        """Take the next generation that may start now.

        Args:
            is_allowed: Tells whether an engine id may start one.
            has_slot: Tells whether one of a priority may start.
        """
        for priority in filter(has_slot, sorted(self._levels, reverse=True)):
            for engine_id, waiting in self._levels[priority].items():
                key = next((key for key in waiting if key not in self._held), None)
                if key is not None and is_allowed(engine_id):
                    self._take(key)
                    self._end_turn(priority, engine_id)
                    return key
        return None

    def hold(self, key: identity.GenerationKey) -> None:
        """Let a generation stay in line although it could start."""
        self._held.add(key)

    def let_go(self, key: identity.GenerationKey) -> None:
        """Let a generation start when it is its turn again."""
        self._held.discard(key)

    def remove(self, key: identity.GenerationKey) -> None:
        """Take a generation out of the line, wherever it stands."""
        self._take(key)

    def __iter__(self) -> Iterator[identity.GenerationKey]:
        """Iterate over the line in the order in which it would be served."""
        for priority in sorted(self._levels, reverse=True):
            turns = [collections.deque(waiting) for waiting in self._levels[priority].values()]
            while turns:
                yield from [waiting.popleft() for waiting in turns]
                turns = [waiting for waiting in turns if waiting]

    def _take(self, key: identity.GenerationKey) -> None:
        place = self._places.pop(key)
        self._held.discard(key)
        self._size -= place.size
        self._by_engine[key.engine_id] -= 1
        if not self._by_engine[key.engine_id]:
            del self._by_engine[key.engine_id]
        turns = self._levels[place.priority]
        turns[key.engine_id].remove(key)
        if not turns[key.engine_id]:
            del turns[key.engine_id]
        if not turns:
            del self._levels[place.priority]

    def _end_turn(self, priority: int, engine_id: str) -> None:
        turns = self._levels.get(priority, {})
        if engine_id in turns:
            turns[engine_id] = turns.pop(engine_id)

    def _count_ahead(self, engine_id: str, priority: int) -> int:
        """Count what is served before the newest generation of an engine and priority."""
        higher = sum(
            len(waiting)
            for level, turns in self._levels.items()
            if level > priority
            for waiting in turns.values()
        )
        turns = self._levels[priority]
        own = len(turns[engine_id]) - 1
        ahead, rounds = higher + own, own + 1
        for other, waiting in turns.items():
            if other == engine_id:
                rounds = own  # The engines after this one have one turn less before it.
            else:
                ahead += min(len(waiting), rounds)
        return ahead

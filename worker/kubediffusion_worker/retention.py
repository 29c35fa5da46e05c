"""Ended generations: kept until acknowledged, within bounds; then a small memory of them.

What an engine that holds its lease has not acknowledged is never evicted: the worker
refuses new work instead.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import identity


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionLimits:
    """Bounds of what is kept of ended generations."""

    max_bytes: int = 2_000_000_000
    """Bytes of results over all engines."""
    max_bytes_per_engine: int = 1_500_000_000
    """Bytes of results of one engine id, so that one engine cannot take everything."""
    max_items: int = 1024
    """Ended generations, with or without a result."""
    max_age: float = 3600.0
    """Seconds that results of engines without a lease are kept."""
    max_tombstones: int = 4096
    """Ids that are remembered after their generation was released."""
    max_tombstone_age: float = 3600.0
    """Seconds that such ids are remembered."""

    def __post_init__(self) -> None:
        """Refuse bounds that would refuse everything."""
        if min(self.max_bytes, self.max_bytes_per_engine, self.max_items) < 1:
            raise ValueError("the bounds of retention must be positive")


class _Item(NamedTuple):
    size: int
    ended_at: float


class Shelf:
    """The sizes and ages of the ended generations that are kept, oldest first."""

    def __init__(self, limits: RetentionLimits) -> None:
        self._limits = limits
        self._items: dict[identity.GenerationKey, _Item] = {}
        self._bytes_by_engine: dict[str, int] = {}
        self._items_by_engine: dict[str, int] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: identity.GenerationKey) -> bool:
        return key in self._items

    @property
    def bytes(self) -> int:
        """Bytes of all results that are kept."""
        return self._bytes

    def bytes_of(self, engine_id: str) -> int:
        """Bytes of the results that are kept for one engine id."""
        return self._bytes_by_engine.get(engine_id, 0)

    def holds_any_of(self, engine_id: str) -> bool:
        """Whether anything is kept for an engine id."""
        return engine_id in self._items_by_engine

    def put(self, key: identity.GenerationKey, size: int, now: float) -> None:
        """Keep an ended generation."""
        self._items[key] = _Item(size, now)
        self._count(key.engine_id, size, 1)

    def remove(self, key: identity.GenerationKey) -> None:
        """Stop keeping a generation."""
        item = self._items.pop(key)
        self._count(key.engine_id, -item.size, -1)

    def victims(
        self, now: float, is_protected: Callable[[str], bool]
    ) -> list[identity.GenerationKey]:
        """Choose what to evict, oldest first.

        Args:
            now: In seconds.
            is_protected: Tells whether an engine id holds its lease.
        """
        if not self._items or not self._may_evict(now):
            return []
        limits = self._limits
        chosen: list[identity.GenerationKey] = []
        spare = limits.max_bytes - self._bytes
        spare_items = limits.max_items - len(self._items)
        spare_of = {
            engine_id: limits.max_bytes_per_engine - size
            for engine_id, size in self._bytes_by_engine.items()
        }
        for key, item in self._items.items():
            is_over = spare < 0 or spare_items < 0 or spare_of[key.engine_id] < 0
            is_old = now - item.ended_at > limits.max_age
            if (is_over or is_old) and not is_protected(key.engine_id):
                chosen.append(key)
                spare += item.size
                spare_items += 1
                spare_of[key.engine_id] += item.size
        return chosen

    def refusal(self, engine_id: str, is_protected: Callable[[str], bool]) -> str | None:
        """Say why no result of an engine would have room now, if so."""
        limits = self._limits
        is_full = self._bytes >= limits.max_bytes or len(self) >= limits.max_items
        if is_full and all(map(is_protected, self._items_by_engine)):
            return (
                f"{len(self)} ended generations with {self._bytes} bytes wait to be acknowledged"
            )
        own = self.bytes_of(engine_id)
        if own >= limits.max_bytes_per_engine and is_protected(engine_id):
            return f"{own} bytes of engine {engine_id!r} wait to be acknowledged"
        return None

    def _may_evict(self, now: float) -> bool:
        """Tell cheaply whether any bound can be broken; called after every stimulus."""
        oldest = next(iter(self._items.values()))
        return (
            self._bytes > self._limits.max_bytes
            or len(self) > self._limits.max_items
            or now - oldest.ended_at > self._limits.max_age
            or max(self._bytes_by_engine.values()) > self._limits.max_bytes_per_engine
        )

    def _count(self, engine_id: str, size: int, items: int) -> None:
        self._bytes += size
        self._bytes_by_engine[engine_id] = self.bytes_of(engine_id) + size
        self._items_by_engine[engine_id] = self._items_by_engine.get(engine_id, 0) + items
        if not self._items_by_engine[engine_id]:
            del self._items_by_engine[engine_id], self._bytes_by_engine[engine_id]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tombstone:
    """What is remembered of a generation after it was released."""

    is_evicted: bool
    """Evicted for room or age; otherwise acknowledged."""
    attempt: int
    digest: str
    last_event: worker_pb2.GenerationEvent
    """The terminal event, for watchers that did not see it in time."""
    released_at: float

    @property
    def can_return(self) -> bool:
        """Whether a later attempt may compute it again: nobody has got a result from here.

        It was evicted, or it ended without one, for example because another worker had
        taken over or because this one was to be drained.
        """
        return self.is_evicted or self.last_event.WhichOneof("event") != "succeeded"


class Tombstones:
    """The ids of released generations, oldest first; bounded by count and age."""

    def __init__(self, limits: RetentionLimits) -> None:
        self._limits = limits
        self._stones: dict[identity.GenerationKey, Tombstone] = {}

    def __len__(self) -> int:
        return len(self._stones)

    def __contains__(self, key: identity.GenerationKey) -> bool:
        return key in self._stones

    def __iter__(self) -> Iterator[identity.GenerationKey]:
        """Iterate over the remembered ids, oldest first."""
        return iter(self._stones)

    def get(self, key: identity.GenerationKey) -> Tombstone | None:
        """Return what is remembered under a key."""
        return self._stones.get(key)

    def put(self, key: identity.GenerationKey, stone: Tombstone) -> None:
        """Remember a released generation, and forget the oldest beyond the bound."""
        self._stones.pop(key, None)
        self._stones[key] = stone
        while len(self._stones) > self._limits.max_tombstones:
            del self._stones[next(iter(self._stones))]

    def remove(self, key: identity.GenerationKey) -> None:
        """Forget a released generation."""
        self._stones.pop(key, None)

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        oldest_kept = now - self._limits.max_tombstone_age
        while self._stones:
            key, stone = next(iter(self._stones.items()))
            if stone.released_at >= oldest_kept:
                return
            del self._stones[key]

"""Which checkpoints of generations are kept in memory: the newest two of each, within bounds.

The state machine counts and chooses here; the bytes are `saving`'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import identity

KEPT = 2
"""Checkpoints of one generation: while the newest is on its way to an engine, it may be
replaced, and the one before it is still whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointLimits:
    """Bounds of the checkpoints that are kept in memory."""

    max_bytes: int = 2_000_000_000
    """Over all generations and engines."""

    def __post_init__(self) -> None:
        """Refuse bounds that would refuse everything."""
        if self.max_bytes < 1:
            raise ValueError("the bound of checkpoints must be positive")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint lies."""

    key: identity.GenerationKey
    step: int


class CheckpointShelf:
    """The checkpoints that are kept, by generation."""

    def __init__(self, limits: CheckpointLimits) -> None:
        self._limits = limits
        # Oldest first, both the generations, by their newest checkpoint, and the lists.
        self._kept: dict[identity.GenerationKey, list[worker_pb2.CheckpointInfo]] = {}
        self._precious: set[identity.GenerationKey] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def __contains__(self, key: identity.GenerationKey) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[identity.GenerationKey]:
        """Iterate over the generations with checkpoints."""
        return iter(self._kept)

    @property
    def bytes(self) -> int:
        """Bytes of all checkpoints that are kept."""
        return self._bytes

    def of(self, key: identity.GenerationKey) -> tuple[worker_pb2.CheckpointInfo, ...]:
        """Return the checkpoints of a generation, oldest first."""
        return tuple(self._kept.get(key, ()))

    def newest(self, key: identity.GenerationKey) -> worker_pb2.CheckpointInfo | None:
        """Return the checkpoint that was stored last."""
        kept = self._kept.get(key)
        return kept[-1] if kept else None

    def put(
        self, key: identity.GenerationKey, info: worker_pb2.CheckpointInfo
    ) -> list[Place] | None:
        """Keep a checkpoint.

        Returns:
            Those that are dropped for it; None where it finds no room.
        """
        before = self._kept.get(key, [])
        kept = [each for each in before if each.step != info.step][-(KEPT - 1) :]
        leaving = [each for each in before if each not in kept]
        needed = self._bytes - _size(leaving) + info.size - self._limits.max_bytes
        victims = self._victims(key, kept, needed)
        if victims is None:
            return None
        dropped = [Place(key, each.step) for each in leaving if each.step != info.step]
        for place in [*dropped, *victims]:
            self._remove(place)
        self._take_back(key, info.step)
        # The generation whose checkpoint is the newest comes last.
        self._kept[key] = [*self._kept.pop(key, []), info]
        self._bytes += info.size
        return [*dropped, *victims]

    def protect(self, key: identity.GenerationKey) -> None:
        """Let nothing of a generation give way: somebody depends on it."""
        self._precious.add(key)

    def relax(self, key: identity.GenerationKey) -> None:
        """Let the checkpoints of a generation give way to others again."""
        self._precious.discard(key)

    def keep_newest(self, key: identity.GenerationKey) -> list[Place]:
        """Drop all but the newest checkpoint of a generation; return what was dropped."""
        dropped = [Place(key, each.step) for each in self._kept.get(key, [])[:-1]]
        for place in dropped:
            self._remove(place)
        return dropped

    def drop(self, key: identity.GenerationKey) -> list[Place]:
        """Drop all checkpoints of a generation; return what was dropped."""
        dropped = self._kept.pop(key, [])
        self._bytes -= _size(dropped)
        self._precious.discard(key)
        return [Place(key, each.step) for each in dropped]

    def _victims(
        self, key: identity.GenerationKey, own: list[worker_pb2.CheckpointInfo], needed: int
    ) -> list[Place] | None:
        """Choose what gives way: second newest ones first, then what can be taken again."""
        chosen: list[Place] = []
        for place, size in self._candidates(key, own):
            if needed <= 0:
                break
            chosen.append(place)
            needed -= size
        return chosen if needed <= 0 else None

    def _candidates(
        self, key: identity.GenerationKey, own: list[worker_pb2.CheckpointInfo]
    ) -> Iterator[tuple[Place, int]]:
        others = {other: kept for other, kept in self._kept.items() if other != key}
        yield from ((Place(key, each.step), each.size) for each in own)
        for other, kept in others.items():
            yield from ((Place(other, each.step), each.size) for each in kept[:-1])
        for other, kept in others.items():
            if other not in self._precious:
                yield Place(other, kept[-1].step), kept[-1].size

    def _remove(self, place: Place) -> None:
        self._take_back(place.key, place.step)
        if not self._kept.get(place.key, True):
            del self._kept[place.key]

    def _take_back(self, key: identity.GenerationKey, step: int) -> None:
        kept = self._kept.get(key, [])
        self._bytes -= _size([each for each in kept if each.step == step])
        kept[:] = [each for each in kept if each.step != step]


def _size(infos: list[worker_pb2.CheckpointInfo]) -> int:
    return sum(each.size for each in infos)

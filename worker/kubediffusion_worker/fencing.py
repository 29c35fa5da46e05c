"""Which start of an engine owns its generations, and whether it is still there.

The highest epoch that was seen of an engine id owns it. An engine holds its lease while it
has a watch open, and for a while after the last one closed.
"""

import dataclasses
from collections.abc import Callable, Iterable

from kubediffusion_worker import identity, refusals


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FenceLimits:
    """How long leases last, and how many engines are remembered."""

    lease_seconds: float = 60.0
    """Seconds that a lease outlasts the last watch: an engine's restart fits in."""
    max_engines: int = 4096
    """Engine ids that are remembered although nothing of theirs is here."""


@dataclasses.dataclass(slots=True)
class _Engine:
    epoch: identity.Epoch
    unleased_since: float
    watches: dict[int, identity.Epoch] = dataclasses.field(default_factory=dict)


class Fences:
    """The epochs and leases of all engines that have been here."""

    def __init__(self, limits: FenceLimits) -> None:
        self._limits = limits
        # Ordered by the last claim, so that the longest silent ones come first.
        self._engines: dict[str, _Engine] = {}

    def __len__(self) -> int:
        return len(self._engines)

    def epoch_of(self, engine_id: str) -> identity.Epoch:
        """Return the highest epoch seen of an engine id; 0 where none was."""
        engine = self._engines.get(engine_id)
        return engine.epoch if engine else identity.Epoch(0, "")

    def claim(self, caller: identity.Caller, now: float) -> list[tuple[int, identity.Epoch]]:
        """Let a caller act as the owner of its engine id.

        Returns:
            The open watches of older epochs, with these; they are forgotten, and have to end.

        Raises:
            StaleEpochError: A newer start of the engine has been here.
        """
        engine = self._engines.pop(caller.engine_id, None)
        if engine is None:
            engine = _Engine(caller.epoch, unleased_since=now)
        self._engines[caller.engine_id] = engine
        if caller.epoch < engine.epoch:
            raise refusals.stale_epoch(caller.engine_id, caller.epoch, engine.epoch)
        engine.epoch = caller.epoch
        stale = [(watch, epoch) for watch, epoch in engine.watches.items() if epoch < engine.epoch]
        for watch, _ in stale:
            self.close_watch(watch, caller.engine_id, now)
        return stale

    def open_watch(self, watch: int, caller: identity.Caller) -> None:
        """Start or prolong the lease of a caller that has claimed its engine id."""
        self._engines[caller.engine_id].watches[watch] = caller.epoch

    def close_watch(self, watch: int, engine_id: str, now: float) -> None:
        """Note that a watch is over; unknown ones are ignored."""
        engine = self._engines.get(engine_id)
        if engine and engine.watches.pop(watch, None) is not None and not engine.watches:
            engine.unleased_since = now + self._limits.lease_seconds

    def holds_lease(self, engine_id: str, now: float) -> bool:
        """Whether the engine is there, or may still come back."""
        engine = self._engines.get(engine_id)
        return engine is not None and (bool(engine.watches) or now < engine.unleased_since)

    def unleased_since(self, engine_id: str, now: float) -> float | None:
        """Return since when the engine holds no lease; None while it holds one."""
        if self.holds_lease(engine_id, now):
            return None
        engine = self._engines.get(engine_id)
        return engine.unleased_since if engine else now

    def forget(self, now: float, is_needed: Callable[[str], bool]) -> None:
        """Forget the longest silent engines beyond the bound.

        Args:
            now: In seconds.
            is_needed: Tells whether something of the engine id is still here.
        """
        excess = len(self._engines) - self._limits.max_engines
        if excess <= 0:
            return
        for engine_id in _first(
            excess,
            (
                engine_id
                for engine_id in self._engines
                if not self.holds_lease(engine_id, now) and not is_needed(engine_id)
            ),
        ):
            del self._engines[engine_id]


def check_writer(caller: identity.Caller, *, operators_allowed: bool) -> None:
    """Refuse a write of a caller whose role does not allow it.

    Raises:
        MethodNotAllowedError: The role may not do this.
    """
    if caller.is_owner or (operators_allowed and caller.role is identity.Role.OPERATOR):
        return
    raise refusals.wrong_role(caller.role, operators_allowed=operators_allowed)


def _first(count: int, items: Iterable[str]) -> list[str]:
    return [item for _, item in zip(range(count), items, strict=False)]

"""What changed between two sets of endpoints. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kubediffusion._discovery import protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to do with the links of the endpoints that were known."""

    opened: tuple[protocol.Endpoint, ...] = ()
    """New names, and known names at new addresses: they need a link."""

    left: tuple[protocol.Endpoint, ...] = ()
    """Names that are listed no more: nobody knows what became of the worker."""

    ended: tuple[protocol.Endpoint, ...] = ()
    """As they were known: their lives are over for certain."""

    replaced: tuple[protocol.Endpoint, ...] = ()
    """As they were known: the name belongs to another life at another address now."""

    moved: tuple[protocol.Endpoint, ...] = ()
    """As they were known: the address is another, the life perhaps the same."""

    updated: tuple[protocol.Endpoint, ...] = ()
    """As they are now: same name and address, but something else is new."""

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return any((self.opened, self.left, self.ended, self.replaced, self.moved, self.updated))


def compare(known: Mapping[str, protocol.Endpoint], found: Sequence[protocol.Endpoint]) -> Changes:
    """Compare what is known, by name, with a set that was found."""
    now = by_name(found)
    dead = {(endpoint.name, endpoint.incarnation) for endpoint in found if endpoint.is_dead}
    absent = [old for name, old in known.items() if name not in now]
    pairs = [(known[name], now[name]) for name in known if name in now]
    elsewhere = [(old, new) for old, new in pairs if old.address != new.address]
    return Changes(
        opened=tuple(
            new
            for name, new in now.items()
            if name not in known or known[name].address != new.address
        ),
        left=tuple(old for old in absent if (old.name, old.incarnation) not in dead),
        ended=tuple(old for old in absent if (old.name, old.incarnation) in dead),
        replaced=tuple(old for old, new in elsewhere if _is_another_life(old, new)),
        moved=tuple(old for old, new in elsewhere if not _is_another_life(old, new)),
        updated=tuple(new for old, new in pairs if old.address == new.address and old != new),
    )


def by_name(found: Iterable[protocol.Endpoint]) -> dict[str, protocol.Endpoint]:
    """Return living endpoints by name, in order; of two with one name the ready one counts.

    A source may list a name twice for a moment, for example while a worker moves.
    """
    endpoints: dict[str, protocol.Endpoint] = {}
    for endpoint in found:
        if endpoint.is_dead:
            continue
        other = endpoints.get(endpoint.name)
        if other is None or (endpoint.is_ready and not other.is_ready):
            endpoints[endpoint.name] = endpoint
    return endpoints


def _is_another_life(old: protocol.Endpoint, new: protocol.Endpoint) -> bool:
    return bool(old.incarnation and new.incarnation) and old.incarnation != new.incarnation

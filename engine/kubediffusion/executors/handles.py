"""What an external executor's `_connect_to_workers` may return, told apart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from kubediffusion._discovery import protocol as discovery_protocol
from kubediffusion._discovery import static
from kubediffusion._links import protocol

T = TypeVar("T")

_WANTED = (
    "addresses ('host:port', 'unix:/path'), WorkerLinks, objects with the methods of a worker "
    "actor (initialize, execute_rpc, generate, get_rank, shutdown), or one Discovery"
)
_ACTOR_METHODS = ("generate", "execute_rpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handles:
    """The handles of an external executor, by how they are reached; one kind is filled."""

    source: discovery_protocol.Discovery | None = None
    """Workers that speak the wire."""

    links: tuple[protocol.WorkerLink, ...] = ()
    """Links that somebody else made."""

    actors: tuple[object, ...] = ()
    """Objects with the methods of a worker actor."""

    others: tuple[object, ...] = ()
    """Only the executor's own hooks know what these are."""


def classify(given: object, *, has_forward_hook: bool) -> Handles:
    """Tell handles apart.

    Args:
        given: A sequence of handles, a single one, or a `Discovery`.
        has_forward_hook: The executor overrides `_forward_rpc_to_workers`: handles may then
            be anything.

    Raises:
        TypeError: They are of no known kind, or of several.
        InvalidRequestError: An address cannot be read.
    """
    if isinstance(given, discovery_protocol.Discovery):
        return Handles(source=given)
    items = _items(given)
    kinds = {_kind(item) for item in items}
    if has_forward_hook and not kinds <= {"address", "link"}:
        return Handles(others=items)
    if len(kinds) > 1:
        raise TypeError(f"worker_handles must be of one kind: {_WANTED}; found {items!r:.200}")
    match kinds.pop() if kinds else "none":
        case "none":
            return Handles()
        case "address":
            return Handles(source=static.StaticDiscovery(str(item) for item in items))
        case "link":
            return Handles(links=tuple(i for i in items if isinstance(i, protocol.WorkerLink)))
        case "actor":
            return Handles(actors=items)
        case _:
            raise TypeError(f"worker_handles must be {_WANTED}; found {items!r:.200}")


def in_rank_order(items: Sequence[T], ranks: Sequence[object]) -> list[T]:
    """Return items by their ranks, or as they are where those are not 0, 1, 2, …."""
    numbers = [rank for rank in ranks if isinstance(rank, int) and not isinstance(rank, bool)]
    if sorted(numbers) != list(range(len(items))):
        return list(items)
    by_rank = dict(zip(numbers, items, strict=True))
    return [by_rank[rank] for rank in range(len(items))]


def _items(given: object) -> tuple[object, ...]:
    if given is None:
        return ()
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return tuple(given)
    if isinstance(given, set | frozenset | dict):
        raise TypeError(
            f"worker_handles must be a list, in the order of ranks; found {given!r:.200}"
        )
    return (given,)


def _kind(item: object) -> str:
    if isinstance(item, str):
        return "address"
    if isinstance(item, protocol.WorkerLink):
        return "link"
    if any(callable(getattr(item, name, None)) for name in _ACTOR_METHODS):
        return "actor"
    return "unknown"

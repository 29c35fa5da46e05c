"""What a source of workers tells: always the full set of endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


class DiscoveryError(Exception):
    """Is raised when a source fails; what it told before stays good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a worker listens, and what its source knows of it.

    The source's opinion on readiness is for display and for ordering: whether a worker
    takes work it says itself.
    """

    name: str
    """The worker's; unique within a set."""

    address: str
    """`host:port` or `unix:/path`."""

    incarnation: str = ""
    """Empty where the source cannot tell."""

    labels: Mapping[str, str] = field(default_factory=dict)

    is_ready: bool = True

    is_draining: bool = False

    is_dead: bool = False
    """Its process has ended for certain: what it had need not be waited for."""


@runtime_checkable
class Discovery(Protocol):
    """A source of workers. Later sources: DNS, EndpointSlices."""

    def endpoints(self) -> AsyncIterator[tuple[Endpoint, ...]]:
        """Yield the full set of endpoints now and after every change.

        A source that never changes ends after the first set.

        Raises:
            DiscoveryError: The source fails; the caller keeps the last set and asks again.
        """
        ...

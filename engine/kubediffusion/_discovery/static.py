"""Discovery of a fixed list of addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from kubediffusion._discovery import protocol
from kubediffusion_wire import addresses


class StaticDiscovery:
    """Tells a fixed list of workers, each under its address as its name.

    Args:
        given: Addresses, `host:port` or `unix:/path`; one that repeats counts once.

    Raises:
        InvalidRequestError: One of them is no address.
    """

    def __init__(self, given: Iterable[str]) -> None:
        texts = [str(addresses.parse(address, field="workers")) for address in given]
        self._endpoints = tuple(
            protocol.Endpoint(name=text, address=text) for text in dict.fromkeys(texts)
        )

    async def endpoints(self) -> AsyncIterator[tuple[protocol.Endpoint, ...]]:
        """Yield the one set."""
        yield self._endpoints

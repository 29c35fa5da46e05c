"""Discovery through the folder in which local workers announce themselves."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Sequence

from kubediffusion._discovery import protocol
from kubediffusion_wire import registry

POLL_SECONDS = 0.5
"""Between two looks at the folder; a look costs well under a millisecond a worker, and a
worker that comes or goes is known within a second."""


class RegistryDiscovery:
    """Follows a registry folder by looking at it again and again.

    Polling also sees what no notification of the file system tells: files that have become
    stale and processes that have died.

    Args:
        folder: May not exist yet.
        poll_seconds: Between two looks.
    """

    def __init__(self, folder: pathlib.Path, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._folder = folder
        self._poll_seconds = poll_seconds

    async def endpoints(self) -> AsyncIterator[tuple[protocol.Endpoint, ...]]:
        """Yield the workers that are alive by their files, now and after every change.

        Raises:
            DiscoveryError: The folder cannot be read or must not be trusted.
        """
        told: tuple[protocol.Endpoint, ...] | None = None
        while True:
            found = await self._look()
            if found != told:
                told = found
                yield found
            await asyncio.sleep(self._poll_seconds)

    async def _look(self) -> tuple[protocol.Endpoint, ...]:
        try:
            # In a thread: a file system may be slow, and the loop has other calls.
            entries = await asyncio.to_thread(registry.read, self._folder)
        except registry.RegistryError as error:
            raise protocol.DiscoveryError(str(error)) from error
        return from_entries(entries)


def from_entries(entries: Sequence[registry.Entry]) -> tuple[protocol.Endpoint, ...]:
    """Return the endpoints of registry entries, sorted by name."""
    return tuple(
        protocol.Endpoint(
            name=entry.name,
            address=entry.address,
            incarnation=entry.incarnation,
            labels=dict(entry.labels),
        )
        for entry in sorted(entries, key=lambda entry: entry.name)
    )

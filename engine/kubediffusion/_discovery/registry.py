"""Discovery through the folder in which local workers announce themselves."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import socket
from collections.abc import AsyncIterator, Sequence

from kubediffusion._discovery import protocol
from kubediffusion_wire import addresses, registry

POLL_SECONDS = 0.5
"""Between two looks at the folder; a look costs well under a millisecond a worker, and a
worker that comes or goes is known within a second."""


PROBE_SECONDS = 0.2
"""For a socket of this machine to accept."""


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
        """Yield the announced workers, now and after every change; see `look`.

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
            return await asyncio.to_thread(look, self._folder)
        except registry.RegistryError as error:
            raise protocol.DiscoveryError(str(error)) from error


def look(folder: pathlib.Path) -> tuple[protocol.Endpoint, ...]:
    """Return the workers that are announced in a folder; those that have ended come last.

    Raises:
        RegistryError: The folder cannot be read or must not be trusted.
    """
    ended = from_entries([e for e in registry.read_ended(folder) if not _is_listening(e.address)])
    dead = tuple(dataclasses.replace(endpoint, is_dead=True) for endpoint in ended)
    return (*from_entries(registry.read(folder)), *dead)


def _is_listening(text: str) -> bool:
    """Tell whether anybody is at an address.

    Process ids alone prove little: those of a container may mean others here.
    """
    address = addresses.parse(text)
    family = socket.AF_UNIX if address.is_unix else socket.AF_INET
    if not address.is_local or ":" in address.host:
        return True  # Not known, at least not fast enough.
    with socket.socket(family) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(address.path if address.is_unix else (address.host, address.port))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


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

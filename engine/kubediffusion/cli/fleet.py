"""The workers that a command is about: found in the registry or named, and linked."""

import contextlib
import pathlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from kubediffusion._links import protocol, remote
from kubediffusion.cli import options
from kubediffusion_wire import addresses as wire_addresses
from kubediffusion_wire import channels, errors, registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a worker is, and its name as far as it is known."""

    name: str
    address: str


def folder(reach: options.Reach) -> pathlib.Path:
    """Answer the registry folder that is meant."""
    return reach.registry or registry.default_folder()


def endpoints(reach: options.Reach) -> tuple[Endpoint, ...]:
    """Answer the workers that are meant: those named, else those announced.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: An address cannot be read.
    """
    if reach.addresses:
        given = [wire_addresses.parse(a, field="--workers") for a in reach.addresses]
        return tuple(Endpoint(name=str(a), address=str(a)) for a in dict.fromkeys(given))
    entries = registry.read(folder(reach))
    return tuple(Endpoint(name=entry.name, address=entry.address) for entry in entries)


def some_endpoints(reach: options.Reach) -> tuple[Endpoint, ...]:
    """Answer the workers that are meant, of which there must be one.

    Raises:
        kubediffusion_wire.errors.NoWorkerError: There is none.
    """
    found = endpoints(reach)
    if not found:
        raise errors.NoWorkerError(f"no worker is announced in {str(folder(reach))!r}")
    return found


def tls(reach: options.Reach) -> channels.TlsFiles | None:
    """Answer the TLS files that were given."""
    if not (reach.certificate and reach.key and reach.authority):
        return None
    return channels.TlsFiles(
        certificate=reach.certificate, key=reach.key, authority=reach.authority
    )


@contextlib.asynccontextmanager
async def connect(
    reach: options.Reach, found: Sequence[Endpoint]
) -> AsyncIterator[tuple[protocol.WorkerLink, ...]]:
    """Link to workers for as long as the context lasts; nothing is dialled before a call."""
    async with contextlib.AsyncExitStack() as stack:
        links = [open_link(reach, endpoint) for endpoint in found]
        for link in links:
            stack.push_async_callback(link.close)
        yield tuple(links)


def open_link(reach: options.Reach, endpoint: Endpoint) -> protocol.WorkerLink:
    """Make a link to one worker; belongs to the running event loop."""
    return remote.RemoteLink(
        endpoint.name, endpoint.address, tls=tls(reach), insecure=reach.is_insecure
    )

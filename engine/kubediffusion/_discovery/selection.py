"""Which source of workers a configuration names."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from kubediffusion import errors
from kubediffusion._discovery import protocol, registry, static

NAMES = ("static", "registry")


def source(
    name: str | None,
    *,
    workers: Sequence[str] = (),
    folder: str | os.PathLike[str] | None = None,
) -> protocol.Discovery:
    """Build the source that a configuration names.

    Args:
        name: "static" or "registry"; None: static if there are workers, else registry.
        workers: Addresses, for static.
        folder: Of the registry; None: the user's own.

    Raises:
        ConfigError: The name is unknown or does not go with the rest.
        InvalidRequestError: A worker's address cannot be read.
    """
    if isinstance(workers, str):
        raise errors.ConfigError(f"workers must be a list of addresses; found {workers!r}")
    chosen = name or ("static" if workers else "registry")
    if chosen == "static":
        if not workers:
            raise errors.ConfigError("discovery='static' needs addresses in workers; found none")
        return static.StaticDiscovery(workers)
    if chosen == "registry":
        if workers:
            raise errors.ConfigError(
                "workers are for discovery='static'; found discovery='registry'"
            )
        return registry.RegistryDiscovery(_folder(folder))
    raise errors.ConfigError(f"discovery must be one of {', '.join(NAMES)}; found {name!r}")


def _folder(given: str | os.PathLike[str] | None) -> pathlib.Path:
    if given is not None:
        return pathlib.Path(given).expanduser()
    from kubediffusion_wire import registry as wire_registry

    return wire_registry.default_folder()

"""Links to the workers that a source tells of, kept up to date."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Sequence

from kubediffusion import errors
from kubediffusion._discovery import changes, following, static
from kubediffusion._discovery import protocol as discovery_protocol
from kubediffusion._links import protocol, remote
from kubediffusion_wire import channels

logger = logging.getLogger(__name__)


class DiscoveredWorkers:
    """Follows a source and opens a link to each of its workers.

    A link stays the same while name and address do: gRPC connects again by itself. What
    left the source is only left out, since its worker may be well, unless the source knows
    that its process has ended.

    Args:
        source: Tells where workers are.
        tls: Certificate files, or None.
        insecure: Allows plaintext to other machines.
        publish: Gets the full set of links after every change.

    Raises:
        ConfigError: `tls` is something else.
    """

    def __init__(
        self,
        source: discovery_protocol.Discovery,
        *,
        tls: object,
        insecure: bool,
        publish: Callable[[Sequence[protocol.WorkerLink]], None],
    ) -> None:
        if tls is not None and not isinstance(tls, channels.TlsFiles):
            raise errors.ConfigError(
                f"tls must be kubediffusion_wire.channels.TlsFiles; found {type(tls).__name__}"
            )
        self._source = source
        self._tls = tls
        self._insecure = insecure
        self._publish = publish
        self._known: dict[str, discovery_protocol.Endpoint] = {}
        self._links: dict[str, remote.RemoteLink] = {}
        # By name and life: they may turn out to have ended later than they left.
        self._departed: weakref.WeakValueDictionary[tuple[str, str], remote.RemoteLink] = (
            weakref.WeakValueDictionary()
        )
        self._refusal: errors.KubediffusionError | None = None
        self._has_first_set = asyncio.Event()

    async def follow(self) -> None:
        """Keep the links up to date until cancelled or until the source ends."""
        async for found in following.follow(self._source):
            self._apply(found)
            self._has_first_set.set()

    async def first_set(self, timeout: float) -> None:
        """Wait until the source has told something, but not for long.

        Raises:
            KubediffusionError: An address that the user gave cannot be used.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._has_first_set.wait(), timeout)
        if self._refusal is not None and isinstance(self._source, static.StaticDiscovery):
            raise self._refusal

    def _apply(self, found: Sequence[discovery_protocol.Endpoint]) -> None:
        news = changes.compare(self._known, found)
        self._known = changes.by_name(found)
        for endpoint in (*news.ended, *news.replaced):
            self._drop(endpoint, is_gone=True)
        for endpoint in (*news.left, *news.moved):
            self._drop(endpoint, is_gone=False)
        for endpoint in news.opened:
            self._open(endpoint)
        self._bury(found)
        if news:
            logger.info(
                "workers changed",
                extra={
                    "opened": len(news.opened),
                    "left": len(news.left),
                    "ended": len(news.ended),
                },
            )
        self._publish([self._links[name] for name in self._known if name in self._links])

    def _drop(self, endpoint: discovery_protocol.Endpoint, *, is_gone: bool) -> None:
        link = self._links.pop(endpoint.name, None)
        if link is None:
            return
        if is_gone:
            link.mark_gone()
        else:
            self._departed[endpoint.name, endpoint.incarnation] = link

    def _bury(self, found: Sequence[discovery_protocol.Endpoint]) -> None:
        for endpoint in found:
            link = self._departed.get((endpoint.name, endpoint.incarnation))
            if endpoint.is_dead and endpoint.incarnation and link is not None:
                link.mark_gone()

    def _open(self, endpoint: discovery_protocol.Endpoint) -> None:
        try:
            self._links[endpoint.name] = remote.RemoteLink(
                endpoint.name, endpoint.address, tls=self._tls, insecure=self._insecure
            )
        except errors.KubediffusionError as error:
            self._refusal = error
            logger.warning(
                "cannot link to a worker",
                extra={"worker": endpoint.name, "cause": error.message},
            )

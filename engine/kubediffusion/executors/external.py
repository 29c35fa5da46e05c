"""The executor for workers that somebody else manages."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion import _background, _loop, errors
from kubediffusion._discovery import protocol as discovery_protocol
from kubediffusion._discovery import selection
from kubediffusion._links import protocol
from kubediffusion.executors import handles, linked

if TYPE_CHECKING:
    from kubediffusion import _config
    from kubediffusion.executors import failures

logger = logging.getLogger(__name__)

DISCONNECT_SECONDS = 10.0
"""That `_disconnect_from_workers` gets; the engine's end must be bounded."""

FIRST_SET_SECONDS = 5.0
"""That a source of workers gets to tell its first set before the engine goes on without."""

HEALTH_SECONDS = 30.0
"""That `_check_worker_health` gets."""


class ExternalDiffusionExecutor(linked.LinkedExecutor):
    """Connects to workers that outlive the engine, and never ends them.

    As it is, it finds workers through the configured discovery. A subclass overrides
    `_connect_to_workers` to find them in another way, and the other hooks where its workers
    do not speak the wire. Hooks may be sync or async; async ones run on the engine's loop,
    sync ones may block.

    Attributes:
        worker_handles: What `_connect_to_workers` has set or returned, in the order of
            ranks: addresses, `WorkerLink`s, objects with the methods of a worker actor, or
            a `Discovery`; anything where `_forward_rpc_to_workers` is overridden.
    """

    def __init__(self, config: _config.OmniDiffusionConfig) -> None:
        self._untouched: list[Any] = []
        self.worker_handles: Any = self._untouched  # Any: see above
        self._follower: asyncio.Task[None] | None = None
        super().__init__(config)

    def _connect_to_workers(self) -> Any:
        """Return the handles, or set `worker_handles`; called once, when the engine starts."""
        return selection.source(
            self.config.discovery, workers=self.config.workers, folder=self.config.registry
        )

    def _forward_rpc_to_workers(
        self,
        method: str,
        timeout: float | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        unique_reply_rank: int | None,
    ) -> Any:
        """Call a method on the workers, "generate" included, as `collective_rpc` says."""
        call = self._call_all(method, timeout, args, kwargs, unique_reply_rank)
        return self._running_loop().run(call)

    def _check_worker_health(self) -> Any:
        """Return False or raise where a worker would not serve a request sent now."""
        self._running_loop().run(self._check_links())

    def _disconnect_from_workers(self) -> Any:
        """Let go of the handles; the workers go on."""

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        unique_reply_rank: int | None = None,
    ) -> Any:
        """Call a method by name on every worker."""
        if not self._overrides("_forward_rpc_to_workers"):
            return super().collective_rpc(method, timeout, args, kwargs, unique_reply_rank)
        linked.check_method(method)
        call = self.forward(method, timeout, args, kwargs or {}, unique_reply_rank)
        return self._running_loop().run(call)

    async def forward(
        self,
        method: str,
        timeout: float | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        unique_reply_rank: int | None,
    ) -> Any:
        """Call the hook `_forward_rpc_to_workers`, whichever kind of function it is.

        Raises:
            RpcTimeoutError: It did not return within `timeout` seconds.
        """
        return await _background.call(
            self._forward_rpc_to_workers,
            method,
            timeout,
            tuple(args),
            dict(kwargs),
            unique_reply_rank,
            timeout=timeout,
        )

    def check_health(self) -> None:
        """Return if every worker would serve a request sent now."""
        if not self._overrides("_check_worker_health"):
            super().check_health()
            return
        self._running_loop().run(self._ask_health_hook())

    async def _ask_health_hook(self) -> None:
        try:
            answer = await _background.call(self._check_worker_health, timeout=HEALTH_SECONDS)
        except errors.KubediffusionError:
            raise
        except Exception as error:  # the user's code
            raise errors.WorkerFailedError(
                f"_check_worker_health() raised {type(error).__name__}: {error!s:.300}"
            ) from error
        if answer is not None and not answer:
            raise errors.WorkerFailedError(f"_check_worker_health() returned {answer!r:.100}")

    def take_loss(self, failure: failures.WorkerFailure) -> None:
        """Tell the callbacks: nobody but the engine watches over these workers."""
        self.report_failure(failure)

    def _connect(self, loop: _loop.EngineLoop) -> None:
        returned = self._connect_to_workers()
        if inspect.isawaitable(returned):
            returned = loop.run(_awaited(returned))
        if returned is not None:
            self.worker_handles = returned
        given = handles.classify(
            self.worker_handles, has_forward_hook=self._overrides("_forward_rpc_to_workers")
        )
        loop.run(self._link(given))

    async def _link(self, given: handles.Handles) -> None:
        self._check_open()
        if given.source is not None:
            await self._start_following(given.source)
        elif given.actors:
            await self._link_actors(given.actors)
        elif given.others or self._has_only_hooks():
            await self._link_actors([_HookActor(self)], address=f"executor {type(self).__name__}")
        else:
            self._publish(given.links)

    def _has_only_hooks(self) -> bool:
        """Whether the hooks know the workers without ever mentioning handles."""
        has_handles = self.worker_handles is not self._untouched or bool(self._untouched)
        return not has_handles and self._overrides("_forward_rpc_to_workers")

    def _publish(self, links: Sequence[protocol.WorkerLink]) -> None:
        for link in links:
            self._remember(link)
        self._roster.publish(links)

    async def _link_actors(self, actors: Sequence[object], address: str = "") -> None:
        """Link to actors, once they are initialized, by what they say of their ranks."""
        from kubediffusion._links import actor  # Late: loads protobuf.

        links = [
            actor.ActorLink(f"worker-{index}", each, address=address)
            for index, each in enumerate(actors)
        ]
        self._publish(links)
        with contextlib.suppress(TimeoutError):  # The links say themselves that they start.
            async with asyncio.timeout(self.config.start_timeout):
                await asyncio.gather(*(link.initialized() for link in links))
        ranks = await asyncio.gather(*(link.rank() for link in links), return_exceptions=True)
        self._publish(handles.in_rank_order(links, ranks))

    async def _start_following(self, source: discovery_protocol.Discovery) -> None:
        from kubediffusion.executors import discovered  # Late: loads gRPC.

        workers = discovered.DiscoveredWorkers(
            source, tls=self.config.tls, insecure=self.config.insecure, publish=self._publish
        )
        self._follower = asyncio.create_task(workers.follow())
        await workers.first_set(FIRST_SET_SECONDS)

    async def _disconnect(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        if not self._overrides("_disconnect_from_workers"):
            return
        try:
            await _background.call(self._disconnect_from_workers, timeout=DISCONNECT_SECONDS)
        except Exception:  # the user's code; the engine ends all the same
            logger.exception("_disconnect_from_workers() failed")

    def _overrides(self, hook: str) -> bool:
        return getattr(type(self), hook) is not getattr(ExternalDiffusionExecutor, hook)


class _HookActor:
    """Gives an executor's own hooks the methods of a worker actor."""

    def __init__(self, executor: ExternalDiffusionExecutor) -> None:
        self._executor = executor

    async def generate(self, requests: Sequence[Any]) -> Any:
        return await self._executor.forward("generate", None, (list(requests),), {}, 0)

    async def execute_rpc(
        self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        return await self._executor.forward(method, None, args, kwargs, 0)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable

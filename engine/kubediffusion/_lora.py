"""LoRA adapters by name, on all workers of an engine alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

if TYPE_CHECKING:
    from kubediffusion import _session

logger = logging.getLogger(__name__)


class Adapter(NamedTuple):
    """Where every worker finds an adapter."""

    source: str
    weight_name: str = ""


class Adapters:
    """Sees to it that every worker has every adapter.

    Args:
        wanted: Sources by name, from the configuration.
        caller: Who asks.
        spawn: Runs something beside everything else.
    """

    def __init__(
        self,
        wanted: Mapping[str, str],
        caller: worker_pb2.Caller,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._wanted = {name: Adapter(source) for name, source in wanted.items()}
        self._caller = caller
        self._spawn = spawn
        self._tried: set[tuple[str, str]] = set()

    async def load(
        self, sessions: Sequence[_session.Session], name: str, adapter: Adapter
    ) -> None:
        """Load an adapter on all workers; those that come later get it too.

        Raises:
            KubediffusionError: Of the first worker that could not; others may have.
        """
        self._wanted[name] = adapter
        results = await asyncio.gather(
            *(self._load(session, name, adapter) for session in sessions), return_exceptions=True
        )
        problem = next((each for each in results if isinstance(each, BaseException)), None)
        if problem is not None:
            self._wanted.pop(name, None)
            raise problem

    async def unload(self, sessions: Sequence[_session.Session], name: str) -> bool:
        """Remove an adapter from all workers; tell whether any had it.

        Raises:
            KubediffusionError: Of the first worker that could not.
        """
        self._wanted.pop(name, None)
        request = worker_pb2.UnloadAdapterRequest(caller=self._caller, name=name)
        answers = await asyncio.gather(*(each.link.unload_adapter(request) for each in sessions))
        for session in sessions:
            await session.refresh()
        return any(answer.is_unloaded for answer in answers)

    def load_missing(self, session: _session.Session) -> None:
        """Begin to load what a worker that serves now has not, once in its life."""
        resident = {adapter.name for adapter in session.worker.adapters}
        for name, adapter in self._wanted.items():
            key = (session.worker.incarnation, name)
            if name not in resident and key not in self._tried:
                self._tried.add(key)
                session.loading.add(name)
                self._spawn(self._load_late(session, name, adapter))

    async def _load(self, session: _session.Session, name: str, adapter: Adapter) -> None:
        request = worker_pb2.LoadAdapterRequest(
            caller=self._caller,
            name=name,
            source=adapter.source,
            weight_name=adapter.weight_name,
        )
        await session.link.load_adapter(request)
        await session.refresh()

    async def _load_late(self, session: _session.Session, name: str, adapter: Adapter) -> None:
        try:
            await self._load(session, name, adapter)
        except errors.KubediffusionError as error:
            logger.warning(
                "worker cannot load an adapter",
                extra={"worker": session.link.name, "adapter": name, "cause": error.message},
            )
        finally:
            session.loading.discard(name)

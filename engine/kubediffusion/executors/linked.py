"""What all executors have in common whose workers are reached by links."""

from __future__ import annotations

import abc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion import _loop, errors
from kubediffusion._links import protocol, roster
from kubediffusion.executors import abstract

if TYPE_CHECKING:
    from kubediffusion import _config
    from kubediffusion_proto.v1 import worker_pb2


class LinkedExecutor(abstract.DiffusionExecutor):
    """Yields links; methods and health go over them as well.

    A subclass says what happens on `_connect` and `_disconnect`. Used without an engine, it
    starts itself at the first call that needs workers.
    """

    def __init__(self, config: _config.OmniDiffusionConfig) -> None:
        # Before the hook, which a user's subclass may override without calling ours.
        self._roster = roster.LinkRoster()
        self._loop: _loop.EngineLoop | None = None
        self._own_loop: _loop.EngineLoop | None = None
        self._opened: weakref.WeakSet[protocol.WorkerLink] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._is_shut_down = False
        self._step: Callable[[Sequence[Any]], Any] | None = None
        self.caller: worker_pb2.Caller | None = None
        """Who calls methods; the engine sets it. None stands for a person."""
        super().__init__(config)

    def _init_executor(self) -> None:
        """Prepare nothing."""

    @abc.abstractmethod
    def _connect(self, loop: _loop.EngineLoop) -> None:
        """Reach the workers; called once, blocking, off the loop."""

    @abc.abstractmethod
    async def _disconnect(self) -> None:
        """Let go of the workers; called once, on the loop, also where `_connect` failed."""

    def start(self, loop: _loop.EngineLoop) -> None:
        """Reach the workers."""
        with self._lock:
            if self._loop is not None or self._is_shut_down:
                return
            self._loop = loop
        try:
            self._connect(loop)
        except BaseException:
            self.shutdown()
            raise

    def links(self) -> protocol.LinkSource:
        """Return the source of links."""
        return self._roster

    def attach(self, step: Callable[[Sequence[Any]], Any]) -> None:
        """Have `add_requests` go through an engine's `step`."""
        self._step = step

    def add_requests(self, requests: Sequence[Any]) -> Any:  # Any: requests and outputs
        """Run requests to their end through the engine.

        Raises:
            RuntimeError: No engine has been built with this executor.
        """
        if self._step is None:
            raise RuntimeError(
                "this executor runs requests through an engine; build a DiffusionEngine with "
                "it and call engine.step()"
            )
        return self._step(requests)

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        unique_reply_rank: int | None = None,
    ) -> Any:
        """Call a method by name on every worker."""
        check_method(method)
        loop = self._running_loop()
        return loop.run(self._call_all(method, timeout, args, kwargs, unique_reply_rank))

    def check_health(self) -> None:
        """Return if every worker would serve a request sent now."""
        self._running_loop().run(self._check_links())

    def shutdown(self) -> None:
        """Let go of the workers. Idempotent."""
        with self._lock:
            if self._is_shut_down:
                return
            self._is_shut_down = True
            loop = self._loop
        if loop is not None and loop.is_usable:
            loop.run(self._wind_down())
        if self._own_loop is not None:
            self._own_loop.close()

    async def _wind_down(self) -> None:
        self._roster.close()
        # Before the workers end: gRPC prints a line when it hears of that over a connection.
        for link in list(self._opened):
            await link.close()
        await self._disconnect()

    def _check_open(self) -> None:
        """Refuse to begin what a shutdown that came first would not undo; on the loop."""
        if self._is_shut_down:
            raise errors.EngineClosedError("this executor has been shut down")

    def _remember(self, link: protocol.WorkerLink) -> None:
        """Have a link closed at shutdown if nobody has closed it before."""
        self._opened.add(link)

    async def _call_all(
        self,
        method: str,
        timeout: float | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        unique_reply_rank: int | None,
    ) -> Any:
        from kubediffusion.executors import rpc  # Late: loads protobuf.

        return await rpc.call_all(
            self._ranks(),
            method,
            timeout=timeout,
            args=args,
            kwargs=kwargs,
            unique_reply_rank=unique_reply_rank,
            caller=self.caller,
        )

    async def _check_links(self) -> None:
        from kubediffusion.executors import health  # Late: loads protobuf.

        links = self._ranks()
        if not links:
            raise errors.NoWorkerError("no worker is connected")
        health.raise_for(await health.problems(links))

    def _ranks(self) -> Sequence[protocol.WorkerLink]:
        """Return the links in the order of ranks.

        Raises:
            NoWorkerError: A rank has no worker now.
        """
        return self._roster.current

    def _running_loop(self) -> _loop.EngineLoop:
        with self._lock:
            is_new = self._loop is None and not self._is_shut_down
            if is_new and self._own_loop is None:
                self._own_loop = _loop.EngineLoop()
        if is_new and self._own_loop is not None:
            self.start(self._own_loop)
        self._check_open()
        assert self._loop is not None
        return self._loop


def check_method(method: object) -> str:
    """Return the name of a method.

    Raises:
        TypeError: It is no text; code is never sent to workers.
    """
    if isinstance(method, str):
        return method
    raise TypeError(
        f"collective_rpc takes the name of a worker's method; found {method!r}: functions are "
        "not sent to workers"
    )

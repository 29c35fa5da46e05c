"""Links for executors that yield none: a user's own, with `add_requests` and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion._links import protocol

if TYPE_CHECKING:
    from kubediffusion.executors import abstract


class ExecutorActor:
    """Gives an executor the methods of a worker actor."""

    def __init__(self, executor: abstract.DiffusionExecutor) -> None:
        self._executor = executor

    def generate(self, requests: Sequence[Any]) -> Any:  # Any: requests and outputs
        """Run requests to their end."""
        return self._executor.add_requests(list(requests))

    def execute_rpc(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a method on all workers."""
        return self._executor.collective_rpc(method, None, args, kwargs)

    def get_rank(self) -> int:
        """Return 0: to the engine the executor is one worker."""
        return 0


class ForeignLinks:
    """A `LinkSource` of one link, which is made on the loop that first asks for it."""

    def __init__(self, executor: abstract.DiffusionExecutor) -> None:
        self._executor = executor
        self._link: protocol.WorkerLink | None = None

    async def changes(self) -> AsyncIterator[tuple[protocol.WorkerLink, ...]]:
        """Yield the one link, which never changes."""
        from kubediffusion._links import actor  # Late: loads protobuf.

        if self._link is None:
            name = type(self._executor).__name__
            worker = ExecutorActor(self._executor)
            self._link = actor.ActorLink("worker-0", worker, address=f"executor {name}")
        yield (self._link,)
        # There will be no change, and an end would mean that the executor was shut down.
        await asyncio.get_running_loop().create_future()

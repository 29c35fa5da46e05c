"""Watches the workers themselves, as an observer that no engine knows of."""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Sequence

from kubediffusion._links import protocol
from kubediffusion.cli import news, observer
from kubediffusion.cli.demo import summary, tally
from kubediffusion_proto.v1 import worker_pb2


class Witness:
    """What the workers tell of an engine's generations, whether or not the engine lives."""

    def __init__(self, links: Sequence[protocol.WorkerLink], engine_id: str) -> None:
        self._links = links
        self._engine_id = engine_id
        self._changed = asyncio.Condition()
        self._step_seconds: list[float] = []
        self.tally = tally.Tally()
        self.on_news: Callable[[news.News], object] | None = None
        """Told of everything, where somebody wants to see it."""

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch for as long as the context lasts."""
        tasks = [asyncio.create_task(self._watch(link)) for link in self._links]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self, condition: Callable[[tally.Tally], bool], *, timeout: float) -> None:
        """Wait until what was seen fulfils a condition.

        Raises:
            TimeoutError: It did not in time.
        """
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: condition(self.tally))

    async def lives(self) -> dict[str, summary.Life]:
        """Ask the workers who they are."""
        answers = [(await link.get_worker()).worker for link in self._links]
        return {
            worker.name: summary.Life(process_id=worker.process_id, incarnation=worker.incarnation)
            for worker in answers
        }

    @property
    def step_seconds(self) -> float:
        """The median over generations of their median step; 0 where none has ended."""
        return statistics.median(self._step_seconds) if self._step_seconds else 0.0

    async def _watch(self, link: protocol.WorkerLink) -> None:
        request = worker_pb2.WatchGenerationsRequest(
            caller=observer.caller(self._engine_id, worker_pb2.ROLE_OBSERVER)
        )
        async for response in link.watch_generations(request):
            for event in response.events:
                await self._take(event)

    async def _take(self, event: worker_pb2.GenerationEvent) -> None:
        item = news.of_event(event)
        if event.HasField("succeeded"):
            self._step_seconds.append(event.succeeded.result.metrics.step_seconds)
        async with self._changed:
            self.tally.take(item)
            self._changed.notify_all()
        if self.on_news is not None:
            self.on_news(item)

"""Generations that share one compute thread, for tests."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import greenlet

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import compute, runs

PATIENCE = 20.0
"""Seconds, within which a test that works is over by far."""

NO_CHECKPOINTS = compute.CheckpointPolicy(min_interval=None)


class Told:
    """Collects the reports of attempts."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        """What was reported, and of which attempt; without progress."""
        self.steps: dict[int, list[int]] = {}
        self.endings: dict[int, compute.Ending] = {}
        self.drafts: list[runs.CheckpointDraft] = []
        self.reasons: list[str] = []
        self.resumptions: list[tuple[int, worker_pb2.Exactness]] = []
        self.paused_at: list[int] = []
        self.previews: list[runs.PreviewData] = []
        self.broken = ""
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def reports(self) -> compute.Reports:
        return compute.Reports(
            started=lambda run: self._note("started", run),
            advanced=self._advanced,
            ended=self._ended,
            freed=lambda run: self._note("freed", run),
            broken=self._broke,
            captured=self._captured,
            not_captured=self._not_captured,
            resumed=self._resumed,
            paused=self._paused,
            unpaused=lambda run: self._note("unpaused", run),
            previewed=self._previewed,
        )

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the reports say so."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(is_so)

    async def until_told(self, what: str, run: int) -> None:
        await self.until(lambda: (what, run) in self.log)

    async def until_freed(self, *numbers: int) -> None:
        await self.until(lambda: all(("freed", number) in self.log for number in numbers))

    async def until_step(self, run: int, step: int) -> None:
        await self.until(lambda: max(self.steps.get(run, [0])) >= step)

    def _note(self, what: str, run: int) -> None:
        self.log.append((what, run))
        self._tell()

    def _tell(self) -> None:
        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _advanced(self, run: int, advance: compute.Advance) -> None:
        self.steps.setdefault(run, []).append(advance.newest.step)
        self._tell()

    def _ended(self, run: int, ending: compute.Ending) -> None:
        self.endings[run] = ending
        self._note("ended", run)

    def _broke(self, problem: str) -> None:
        self.broken = problem
        self._note("broken", 0)

    def _captured(self, run: int, draft: runs.CheckpointDraft) -> None:
        self.drafts.append(draft)
        self._note("captured", run)

    def _not_captured(self, run: int, reason: str) -> None:
        self.reasons.append(reason)
        self._note("not captured", run)

    def _resumed(self, run: int, step: int, exactness: worker_pb2.Exactness) -> None:
        self.resumptions.append((step, exactness))
        self._note("resumed", run)

    def _paused(self, run: int, step: int) -> None:
        self.paused_at.append(step)
        self._note("paused", run)

    def _previewed(self, run: int, picture: runs.PreviewData) -> None:
        self.previews.append(picture)
        self._note("previewed", run)


@asynccontextmanager
async def a_thread(*, switches_always: bool = False) -> AsyncIterator[compute.ComputeThread]:
    """Run a compute thread; it has to end by itself.

    Args:
        switches_always: Whether each turn is over at the next boundary.
    """
    ticks = itertools.count()
    thread = (
        compute.ComputeThread(lambda: float(next(ticks)))
        if switches_always
        else compute.ComputeThread()
    )
    thread.start()
    try:
        yield thread
    finally:
        assert await thread.stop(PATIENCE)


async def perform_together(
    attempts: Mapping[int, compute.Attempt],
) -> tuple[Mapping[int, compute.Ending], int]:
    """Perform attempts in turns that are over at each boundary.

    Returns:
        Their endings, and how often the thread switched between greenlets.
    """
    told, switches = Told(), 0

    def count(event: str, greenlets: object) -> None:
        nonlocal switches
        switches += 1

    async with a_thread(switches_always=True) as thread:
        await thread.call(lambda: greenlet.settrace(count))
        for attempt in attempts.values():
            attempt.begin(thread, told.reports())
        await told.until(lambda: len(told.endings) == len(attempts))
    return told.endings, switches

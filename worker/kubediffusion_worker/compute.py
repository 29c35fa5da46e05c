"""The compute thread: the only one that touches the model.

Generations share it: where one may be left, another may go on; see `stage`. Whatever happens
in one is reported to the event loop; nothing but `runs.StickyDeviceError` ends the thread's
usefulness.
"""

import asyncio
import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import performance, relay, runs, stage, vitals

T = TypeVar("T")

Advance = relay.Advance
CheckpointPolicy = performance.CheckpointPolicy
Ending = performance.Ending
Reports = performance.Reports


class ComputeThread:
    """Runs generations and jobs for one event loop, on which it is made and used."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Computes nothing yet.

        Args:
            clock: Measures for how long each generation computes.
        """
        self.stage = stage.Stage(clock)
        self._loop = asyncio.get_running_loop()
        # A daemon: a process must be able to end while a step takes its time.
        self._thread = threading.Thread(target=self.stage.work, name="compute", daemon=True)

    @property
    def pulse(self) -> vitals.Pulse:
        """Signs of life."""
        return self.stage.pulse

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def call(
        self,
        function: Callable[[], T],
        activity: vitals.Activity = vitals.Activity.JOB,
        *,
        is_safe: bool = False,
    ) -> "asyncio.Future[T]":
        """Let the thread call a function; the future gets what it returns or raises.

        Args:
            function: Anything.
            activity: What it counts as.
            is_safe: Whether it may run between the steps of generations. If not, it waits
                until those that were given before it are over or paused.
        """
        answer: asyncio.Future[T] = self._loop.create_future()

        def job() -> None:
            self.pulse.begin(activity)
            try:
                value = function()
            except BaseException as error:  # noqa: BLE001  # whatever it is, a caller waits
                self.post(functools.partial(_fail, answer, error))
            else:
                self.post(functools.partial(_answer, answer, value))

        self.stage.order(lambda: self.stage.add_job(job, is_safe=is_safe))
        return answer

    def post(self, report: Callable[[], None]) -> None:
        """Call something on the loop, from any thread."""
        # The loop may have been closed while a step took its time: nobody listens any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(report)

    async def stop(self, timeout: float) -> bool:
        """Let the thread end after what it has to do; tell whether it did in time.

        Generations that are paused end as cancelled ones do.
        """
        self.stage.order(self.stage.close)
        if not self._thread.is_alive():
            return True
        await asyncio.to_thread(self._thread.join, timeout)
        return not self._thread.is_alive()


def _answer(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[T]", error: BaseException) -> None:
    if future.done():
        return
    if not isinstance(error, Exception):
        error = RuntimeError(f"the job ended with {type(error).__name__}")
    future.set_exception(error)


class Attempt:
    """One run on the compute thread, from the order to do it until its place is free.

    It is made and used on the loop. What it is told before `begin` counts from there on.
    """

    def __init__(
        self,
        number: int,
        pipeline: runs.LoadedPipeline,
        spec: worker_pb2.GenerationSpec,
        seed: int,
        *,
        priority: int = 0,
        deadline: float | None = None,
        checkpoint: bytes | None = None,
        policy: CheckpointPolicy | None = None,
    ) -> None:
        """Computes nothing yet.

        Args:
            number: Names it in reports; no other one that has not been freed may have it.
            pipeline: What computes.
            spec: What to compute.
            seed: Of the first output.
            priority: Larger goes first, at boundaries as well.
            deadline: Earlier goes first among equals; it is not enforced.
            checkpoint: To go on from.
            policy: When its state is saved; None: with the defaults.
        """
        self.number = number
        self._order = performance.Order(
            number=number,
            pipeline=pipeline,
            spec=spec,
            seed=seed,
            checkpoint=checkpoint,
            policy=policy or CheckpointPolicy(),
        )
        self._priority = priority
        self._deadline = deadline
        self._given: _Given | None = None
        self._early: list[Callable[[_Given], None]] = []

    @property
    def fingerprint(self) -> str:
        """What the result will depend on; known once the run has started."""
        return self._given.performance.fingerprint if self._given is not None else ""

    def begin(self, thread: ComputeThread, reports: Reports) -> None:
        """Give the run to the compute thread; once."""
        played = performance.Performance(self._order, thread.stage, thread.post, reports)
        self._order = dataclasses.replace(self._order, checkpoint=None)
        act = stage.Act(self.number, played, priority=self._priority, deadline=self._deadline)
        played.act = act
        self._given = _Given(played, act, thread.stage)
        for each in self._early:
            each(self._given)
        self._early.clear()
        thread.stage.order(lambda: thread.stage.enter(act))

    def cancel(self) -> None:
        """Make the run leave the pipeline at its next seam, or where it is parked."""
        self._tell(_Given.cancel)

    def pause(self) -> None:
        """Have the run compute no more from its next boundary on."""
        self._tell(lambda given: given.stage.order(lambda: given.stage.pause(given.act)))

    def unpause(self) -> None:
        """Have the run compute again when it is its turn."""
        self._tell(lambda given: given.stage.order(lambda: given.stage.unpause(given.act)))

    def ask_checkpoint(self) -> None:
        """Have the state captured at the next boundary, or at once where it is parked.

        Is answered by `Reports.captured` or `Reports.not_captured`, unless the run has ended.
        """
        self._tell(lambda given: given.stage.order(given.performance.ask))

    def checkpoint_stored(self) -> None:
        """Allow the next checkpoint by time: the one before is safe, or lost."""
        self._tell(lambda given: given.performance.stored())

    def want_previews(self, interval: float | None) -> None:
        """Have previews made, so many seconds apart at least; None: none."""
        self._tell(lambda given: given.performance.want_previews(interval))

    def _tell(self, what: "Callable[[_Given], None]") -> None:
        if self._given is None:
            self._early.append(what)
        else:
            what(self._given)


@dataclass(frozen=True, slots=True)
class _Given:
    """An attempt that the thread has."""

    performance: performance.Performance
    act: stage.Act
    stage: stage.Stage

    def cancel(self) -> None:
        self.performance.cancel()
        self.stage.order(lambda: self.stage.attend_soon(self.act))

"""The compute thread: the only one that touches the model.

Jobs run one after the other in the order in which they were given. Whatever happens in one
is reported to the event loop; nothing but `StickyDeviceError` ends the thread's usefulness.
"""

import asyncio
import collections
import contextlib
import functools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import runs, vitals

T = TypeVar("T")

MIN_REPORT_SECONDS = 0.005
"""Between two reports of progress to the loop, so that fast pipelines cannot flood it."""


class ComputeThread:
    """Runs jobs for one event loop, on which it is made and used."""

    def __init__(self) -> None:
        self.pulse = vitals.Pulse()
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: a process must be able to end while a step takes its time.
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def give(self, job: Callable[[], None]) -> None:
        """Let the thread do a job that reports by itself."""
        self._jobs.put(job)

    def call(
        self, function: Callable[[], T], activity: vitals.Activity = vitals.Activity.JOB
    ) -> "asyncio.Future[T]":
        """Let the thread call a function; the future gets what it returns or raises."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def job() -> None:
            self.pulse.begin(activity)
            try:
                value = function()
            except BaseException as error:  # noqa: BLE001  # whatever it is, a caller waits
                self.post(functools.partial(_fail, answer, error))
            else:
                self.post(functools.partial(_answer, answer, value))

        self.give(job)
        return answer

    def post(self, report: Callable[[], None]) -> None:
        """Call something on the loop, from any thread."""
        # The loop may have been closed while a step took its time: nobody listens any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(report)

    async def stop(self, timeout: float) -> bool:
        """Let the thread end after the jobs that it has; tell whether it did in time."""
        self._jobs.put(None)
        if not self._thread.is_alive():
            return True
        await asyncio.to_thread(self._thread.join, timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            self.pulse.begin(vitals.Activity.IDLE)


def _answer(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[T]", error: BaseException) -> None:
    if future.done():
        return
    if not isinstance(error, Exception):
        error = RuntimeError(f"the job ended with {type(error).__name__}")
    future.set_exception(error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance:
    """The newest step of a run, and how long the steps since the last report took."""

    newest: runs.StepReport
    step_seconds: tuple[float, ...]


class ProgressRelay:
    """Carries steps from the compute thread to the loop; `runs.RunObserver` of one run.

    At most one report is on its way at any time. It takes the newest step when it arrives,
    so that the compute thread never waits and the loop is never flooded.
    """

    def __init__(self, thread: ComputeThread, deliver: Callable[[Advance], None]) -> None:
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._newest: runs.StepReport | None = None
        self._seconds: collections.deque[float] = collections.deque(maxlen=4096)
        self._is_on_its_way = False
        self._delivered_at = -MIN_REPORT_SECONDS

    def step_done(self, report: runs.StepReport) -> None:
        """Take note of a step; on the compute thread."""
        self._thread.pulse.step(steps=report.step, total=report.total, seconds=report.seconds)
        self._seconds.append(report.seconds)
        self._newest = report
        if not self._is_on_its_way:
            self._is_on_its_way = True
            self._thread.post(self._arrive)

    def seam(self) -> None:
        """Take note of a sign of life; on the compute thread."""
        self._thread.pulse.beat()

    def boundary(self) -> None:
        """Take note of a boundary; on the compute thread."""

    def resumed(self, step: int, exactness: worker_pb2.Exactness) -> None:
        """Take note that the run has caught up with its checkpoint; on the compute thread."""

    def wants_preview(self) -> bool:
        """Tell that nobody looks at previews."""
        return False

    def preview(self, picture: runs.PreviewData) -> None:
        """Take a preview; on the compute thread."""

    def finish(self) -> None:
        """Deliver what has not been delivered; on the loop, after the run has ended."""
        # The flag goes down before the report is taken: a step that still finds it up is
        # taken by this very delivery, and one that finds it down sends its own.
        self._is_on_its_way = False
        newest, self._newest = self._newest, None
        if newest is None:
            return
        self._delivered_at = self._loop.time()
        seconds = [self._seconds.popleft() for _ in range(len(self._seconds))]
        self._deliver(Advance(newest=newest, step_seconds=tuple(seconds)))

    def _arrive(self) -> None:
        early = self._delivered_at + MIN_REPORT_SECONDS - self._loop.time()
        if early > 0:
            self._loop.call_later(early, self.finish)
        else:
            self.finish()


@dataclass(frozen=True, slots=True)
class Reports:
    """Where an attempt tells what became of it; called on the loop, in this order."""

    started: Callable[[int], None]
    advanced: Callable[[int, Advance], None]
    ended: Callable[[int, "Ending"], None]
    freed: Callable[[int], None]
    """The thread can take the next run."""
    broken: Callable[[str], None]
    """The device computes no more; for people."""


Ending = runs.RunOutcome | errors.KubediffusionError | runs.RunCancelled
"""What a run made, or why it made nothing."""


class Attempt:
    """One run on the compute thread, from the order to do it until the thread is free."""

    def __init__(
        self,
        number: int,
        pipeline: runs.LoadedPipeline,
        spec: worker_pb2.GenerationSpec,
        seed: int,
    ) -> None:
        self.number = number
        self.fingerprint = ""
        """What the result will depend on; known once the run has begun."""
        self._pipeline = pipeline
        self._spec = spec
        self._seed = seed
        self._lock = threading.Lock()
        self._run: runs.Run | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """Make the run leave the pipeline at its next seam; from any thread, at any time."""
        with self._lock:
            self._is_cancelled = True
            run = self._run
        if run is not None:
            run.cancel()

    def begin(self, thread: ComputeThread, reports: Reports) -> None:
        """Give the run to the compute thread; on the loop."""
        relay = ProgressRelay(thread, lambda advance: reports.advanced(self.number, advance))
        thread.give(lambda: self._perform(thread, relay, reports))

    def _perform(self, thread: ComputeThread, relay: ProgressRelay, reports: Reports) -> None:
        thread.pulse.begin(vitals.Activity.RUNNING)
        thread.post(lambda: reports.started(self.number))
        ending = self._execute(relay)

        def end() -> None:
            relay.finish()
            reports.ended(self.number, ending)

        thread.post(end)
        if isinstance(ending, errors.WorkerFailedError):
            thread.post(lambda: reports.broken(ending.message))
            return
        if _is_suspicious(ending):
            thread.pulse.begin(vitals.Activity.JOB)
            problem = _self_test(self._pipeline)
            if problem:
                thread.post(lambda: reports.broken(problem))
                return
        thread.post(lambda: reports.freed(self.number))

    def _execute(self, relay: ProgressRelay) -> Ending:
        try:
            with self._lock:
                if self._is_cancelled:
                    return runs.RunCancelled()
                self.fingerprint = self._pipeline.fingerprint_for(self._spec)
                self._run = self._pipeline.start_run(self._spec, seed=self._seed, observer=relay)
            return self._run.execute()
        except runs.RunCancelled as error:
            return error
        except errors.KubediffusionError as error:
            return error
        except runs.StickyDeviceError as error:
            return errors.WorkerFailedError(f"the device failed: {error}")
        except BaseException as error:  # noqa: BLE001  # pipelines may raise or exit anyhow
            # Its text may quote a prompt, so that only its type is passed on.
            return errors.PipelineError(f"the pipeline raised {type(error).__name__}")
        finally:
            self._run = None


def _is_suspicious(ending: Ending) -> bool:
    """Whether an ending leaves doubts about the device."""
    return isinstance(ending, errors.PipelineError | errors.DeviceMemoryError)


def _self_test(pipeline: runs.LoadedPipeline) -> str:
    """Compute a little; return what is wrong with the device, if anything."""
    try:
        pipeline.self_test()
    except runs.StickyDeviceError as error:
        return f"the device failed: {error}"
    except Exception as error:  # noqa: BLE001  # a test that cannot even fail properly
        return f"the self-test raised {type(error).__name__}"
    return ""

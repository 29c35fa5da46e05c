"""One run as a generation on the stage: how it computes, what it reports, when it is saved."""

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import relay, runs, stage, vitals

Ending = runs.RunOutcome | errors.KubediffusionError | runs.RunCancelled
"""What a run made, or why it made nothing."""


def _ignore(*what: object) -> None:
    """Takes a report that nobody wants."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Where an attempt tells what becomes of it; called on the loop.

    Each is called with the attempt's number first, but for `broken`. `started` comes first,
    `ended` after all but `freed` and `broken`.
    """

    started: Callable[[int], None]
    advanced: Callable[[int, relay.Advance], None]
    ended: Callable[[int, Ending], None]
    freed: Callable[[int], None]
    """Another may be given to the thread instead."""
    broken: Callable[[str], None]
    """The device computes no more; for people."""
    captured: Callable[[int, runs.CheckpointDraft], None] = _ignore
    """Its state was saved; `Attempt.checkpoint_stored` allows the next one."""
    not_captured: Callable[[int, str], None] = _ignore
    """Its state could not be saved when that was asked for; why, for people."""
    resumed: Callable[[int, int, worker_pb2.Exactness], None] = _ignore
    """It has caught up with its checkpoint; see `runs.RunObserver.resumed`."""
    paused: Callable[[int, int], None] = _ignore
    """It computes no more until it is unpaused; with the steps that are done."""
    unpaused: Callable[[int], None] = _ignore
    """It may compute again."""
    previewed: Callable[[int, runs.PreviewData], None] = _ignore


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPolicy:
    """When the state of a run is saved without being asked for."""

    min_interval: float | None = 2.0
    """Seconds from one to the next, and before the first; None: never."""

    def __post_init__(self) -> None:
        if self.min_interval is not None and not self.min_interval >= 0:
            raise ValueError(f"min_interval must not be negative; found {self.min_interval}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to compute."""

    number: int
    pipeline: runs.LoadedPipeline
    spec: worker_pb2.GenerationSpec
    seed: int
    checkpoint: bytes | None
    policy: CheckpointPolicy


class Performance:
    """Is the `stage.Player` of one run."""

    def __init__(self, order: Order, on: stage.Stage, post: relay.Post, reports: Reports) -> None:
        self.act: stage.Act
        """Set before it computes."""
        self.fingerprint = ""
        """What the result will depend on; known once the run has begun."""
        number = order.number
        self.relay = relay.Relay(
            on.pulse,
            post,
            relay.Addressee(
                advanced=lambda advance: reports.advanced(number, advance),
                resumed=lambda step, exactness: reports.resumed(number, step, exactness),
                previewed=lambda picture: reports.previewed(number, picture),
                boundary=lambda: on.boundary(self.act),
            ),
        )
        self._order = order
        self._stage = on
        self._post = post
        self._reports = reports
        self._lock = threading.Lock()
        self._run: runs.Run | None = None
        self._is_cancelled = False
        self._is_asked = False
        self._captured_at = 0.0
        self._is_storing = False

    def cancel(self) -> None:
        """Make the run leave the pipeline at its next seam; from any thread, at any time."""
        with self._lock:
            self._is_cancelled = True
            run = self._run
        if run is not None:
            run.cancel()

    def ask(self) -> None:
        """Have the state saved at the next boundary; on the compute thread."""
        if self._run is not None:
            self._is_asked = True
            self._stage.attend_soon(self.act)
        elif not self.act.has_begun:
            self._not_captured("it has not begun")

    def stored(self) -> None:
        """Allow the next draft; from any thread."""
        self._is_storing = False

    def want_previews(self, interval: float | None) -> None:
        """Have previews made, so many seconds apart at least; None: none. On any thread."""
        self.relay.preview_interval = interval

    def play(self) -> None:
        """See `stage.Player`."""
        self._post(lambda: self._reports.started(self._order.number))
        self._captured_at = time.monotonic()
        ending = self._execute()
        self._tell(lambda number: self._reports.ended(number, ending))
        problem = self._problem_after(ending)
        if problem:
            self._stage.halt()
            self._post(lambda: self._reports.broken(problem))
        else:
            self._post(lambda: self._reports.freed(self._order.number))

    def attend(self) -> None:
        """See `stage.Player`."""
        if self._is_cancelled:
            raise runs.RunCancelled
        if self._is_asked or self._is_due():
            self._capture()
        self.act.has_errand = False

    def park(self) -> bool:
        """See `stage.Player`."""
        return self._run is not None and self._run.park()

    def unpark(self) -> None:
        """See `stage.Player`."""
        assert self._run is not None, "it was parked"
        self._run.unpark()

    def paused(self) -> None:
        """See `stage.Player`."""
        step = self.relay.step
        self._tell(lambda number: self._reports.paused(number, step))

    def unpaused(self) -> None:
        """See `stage.Player`."""
        self._tell(self._reports.unpaused)

    def _execute(self) -> Ending:
        try:
            with self._lock:
                if self._is_cancelled:
                    return runs.RunCancelled()
                self._run = self._start()
            return self._run.execute()
        except runs.RunCancelled:
            return runs.RunCancelled()
        except errors.KubediffusionError as error:
            return error
        except runs.StickyDeviceError as error:
            return errors.WorkerFailedError(f"the device failed: {error}")
        except BaseException as error:  # noqa: BLE001  # pipelines may raise or exit anyhow
            # Its text may quote a prompt, so that only its type is passed on.
            return errors.PipelineError(f"the pipeline raised {type(error).__name__}")
        finally:
            self._run = None

    def _start(self) -> runs.Run:
        order = self._order
        # The run has it now, and lets go of it as soon as it can.
        self._order = dataclasses.replace(order, checkpoint=None)
        self.fingerprint = order.pipeline.fingerprint_for(order.spec)
        return order.pipeline.start_run(
            order.spec, seed=order.seed, observer=self.relay, checkpoint=order.checkpoint
        )

    def _problem_after(self, ending: Ending) -> str:
        """Return what is wrong with the device, if anything; a doubtful ending has it tested."""
        if isinstance(ending, errors.WorkerFailedError):
            return ending.message
        if not isinstance(ending, errors.PipelineError | errors.DeviceMemoryError):
            return ""
        self._stage.pulse.begin(vitals.Activity.JOB)
        return self_test(self._order.pipeline)

    def _is_due(self) -> bool:
        interval = self._order.policy.min_interval
        if interval is None or self._is_storing:
            return False
        return time.monotonic() - self._captured_at >= interval

    def _capture(self) -> None:
        is_asked, self._is_asked = self._is_asked, False
        self._captured_at = time.monotonic()
        assert self._run is not None, "it computes"
        try:
            draft = self._run.capture()
        except runs.NotCapturableError as error:
            problem = str(error)
        except (RuntimeError, MemoryError) as error:
            # Too little memory for a copy, most likely: the run may well do without one.
            problem = f"it raised {type(error).__name__}"
        else:
            self._is_storing = True
            self._tell(lambda number: self._reports.captured(number, draft))
            return
        if is_asked:
            self._not_captured(problem)

    def _not_captured(self, reason: str) -> None:
        self._tell(lambda number: self._reports.not_captured(number, reason))

    def _tell(self, report: Callable[[int], None]) -> None:
        """Report on the loop, after the steps up to here."""

        def tell() -> None:
            self.relay.finish()
            report(self._order.number)

        self._post(tell)


def self_test(pipeline: runs.LoadedPipeline) -> str:
    """Compute a little; return what is wrong with the device, if anything."""
    try:
        pipeline.self_test()
    except runs.StickyDeviceError as error:
        return f"the device failed: {error}"
    except Exception as error:  # noqa: BLE001  # a test that cannot even fail properly
        return f"the self-test raised {type(error).__name__}"
    return ""

"""Carries what a run reports from the compute thread to the event loop."""

import asyncio
import collections
import time
from collections.abc import Callable
from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import runs, vitals

MIN_REPORT_SECONDS = 0.005
"""Between two reports of progress to the loop, so that fast pipelines cannot flood it."""

Post = Callable[[Callable[[], None]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Advance:
    """The newest step of a run, and how long the steps since the last report took."""

    newest: runs.StepReport
    step_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Addressee:
    """Who gets what a relay carries; called on the loop, but for `boundary`."""

    advanced: Callable[[Advance], None]
    resumed: Callable[[int, worker_pb2.Exactness], None]
    previewed: Callable[[runs.PreviewData], None]
    boundary: Callable[[], None]
    """Called on the compute thread; what it raises leaves the pipeline."""


class Relay:
    """Is the `runs.RunObserver` of one run.

    At most one report of progress is on its way at any time. It takes the newest step when it
    arrives, so that the compute thread never waits and the loop is never flooded.
    """

    def __init__(self, pulse: vitals.Pulse, post: Post, addressee: Addressee) -> None:
        self.step = 0
        """The newest that was done."""
        self.preview_interval: float | None = None
        """Seconds between two previews; None: nobody looks at any."""
        self._pulse = pulse
        self._post = post
        self._addressee = addressee
        self._loop = asyncio.get_running_loop()
        self._newest: runs.StepReport | None = None
        self._seconds: collections.deque[float] = collections.deque(maxlen=4096)
        self._is_on_its_way = False
        self._delivered_at = -MIN_REPORT_SECONDS
        self._picture: runs.PreviewData | None = None
        self._is_showing = False
        self._previewed_at: float | None = None

    def step_done(self, report: runs.StepReport) -> None:
        """Take note of a step; on the compute thread."""
        self._pulse.step(steps=report.step, total=report.total, seconds=report.seconds)
        self.step = report.step
        self._seconds.append(report.seconds)
        self._newest = report
        if not self._is_on_its_way:
            self._is_on_its_way = True
            self._post(self._arrive)

    def seam(self) -> None:
        """Take note of a sign of life; on the compute thread."""
        self._pulse.beat()

    def boundary(self) -> None:
        """Take note of a boundary; on the compute thread."""
        self._addressee.boundary()

    def resumed(self, step: int, exactness: worker_pb2.Exactness) -> None:
        """Take note that the run has caught up with its checkpoint; on the compute thread."""
        self.step = step
        self._post(lambda: self._addressee.resumed(step, exactness))

    def wants_preview(self) -> bool:
        """Tell whether anybody looks at previews, and the last one is old; on the same."""
        if self.preview_interval is None:
            return False
        last = self._previewed_at
        return last is None or time.monotonic() - last >= self.preview_interval

    def preview(self, picture: runs.PreviewData) -> None:
        """Take a preview, instead of one that has not arrived; on the compute thread."""
        self._previewed_at = time.monotonic()
        self._picture = picture
        if not self._is_showing:
            self._is_showing = True
            self._post(self._show)

    def finish(self) -> None:
        """Deliver what has not been delivered; on the loop, where the order matters."""
        # The flag goes down before the report is taken: a step that still finds it up is
        # taken by this very delivery, and one that finds it down sends its own.
        self._is_on_its_way = False
        newest, self._newest = self._newest, None
        if newest is None:
            return
        self._delivered_at = self._loop.time()
        seconds = [self._seconds.popleft() for _ in range(len(self._seconds))]
        self._addressee.advanced(Advance(newest=newest, step_seconds=tuple(seconds)))

    def _arrive(self) -> None:
        early = self._delivered_at + MIN_REPORT_SECONDS - self._loop.time()
        if early > 0:
            self._loop.call_later(early, self.finish)
        else:
            self.finish()

    def _show(self) -> None:
        self._is_showing = False
        picture, self._picture = self._picture, None
        if picture is not None:
            self._addressee.previewed(picture)

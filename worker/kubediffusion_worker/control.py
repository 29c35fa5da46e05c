"""Follows one run at the seams of its pipeline: progress, cancel, boundaries."""

import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from diffusers.pipelines import pipeline_utils

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import denoised, previews, progress, recording, replay, runs, seams

_LENGTH = "_num_timesteps"


class RunControl:
    """Handles the seams of one run.

    The boundary is the first forward after a step: only there is an iteration complete, since
    several schedulers may step in one. What a run needs to go on elsewhere is what has been
    returned by the steps up to there.
    """

    def __init__(
        self,
        observer: runs.RunObserver,
        *,
        calls: int,
        painter: previews.Painter | None = None,
        aspect: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Makes a control.

        Args:
            observer: Follows the run.
            calls: Of the pipeline in this run.
            painter: Makes previews.
            aspect: Width by height of the pictures.
            clock: Of the time that the run computes, in seconds.
        """
        self._observer = observer
        self._calls = calls
        self._painter = painter
        self._aspect = aspect
        self._clock = clock
        self._count = progress.StepCount(calls)
        self._pipelines: Sequence[pipeline_utils.DiffusionPipeline] = ()
        self._host_timesteps: list[float] = []
        self._is_cancelled = False
        self._is_stepping = False
        self._is_calling = False
        self._has_stepped = False
        self._recording = recording.Recording()
        self._resumption: Resumption | None = None
        self._following: tuple[seams.ModuleCall, types.FrameType] | None = None
        self._step_began: float | None = None
        self.step_seconds: list[float] = []
        self.has_computed = False
        """Whether the current call has come to a module or a step."""

    @property
    def steps(self) -> int:
        """Steps that are done."""
        return self._count.done

    def cancel(self) -> None:
        """Makes the next seam raise; from any thread."""
        self._is_cancelled = True

    def check(self) -> None:
        """Leaves the pipeline if the run is cancelled."""
        if self._is_cancelled:
            raise runs.RunCancelled

    @property
    def is_replaying(self) -> bool:
        """Whether the current call has not caught up with its checkpoint yet."""
        return self._resumption is not None

    def restart(self) -> None:
        """Forgets all calls, but not a cancel: everything will be computed from the seed."""
        self._count = progress.StepCount(self._calls)
        self._resumption = None
        self.step_seconds.clear()
        self._observer.resumed(0, worker_pb2.EXACTNESS_RESTARTED)

    def call_skipped(self, steps: int) -> None:
        """Takes note of a call that was finished before, with its steps."""
        self._count.call_skipped(steps)

    def call_started(
        self,
        pipelines: Sequence[pipeline_utils.DiffusionPipeline],
        generators: Sequence[torch.Generator] = (),
        resumption: "Resumption | None" = None,
    ) -> None:
        """Takes note that a call begins.

        Args:
            pipelines: The copy that is called and all that are nested in it.
            generators: What it is called with.
            resumption: Where it goes on, if anywhere.
        """
        self._pipelines = pipelines
        self._count.call_started()
        self._has_stepped = self._is_stepping = self._is_calling = False
        self._step_began = None
        self.has_computed = False
        self._recording.call_started(pipelines, generators)
        self._resumption = resumption

    def call_ended(self) -> None:
        """Lets go of all that belongs to the call."""
        self._pipelines = ()
        self._count.call_ended()
        self._recording.call_ended()
        self._following = None

    @property
    def recording(self) -> recording.Recording:
        """Of the current call."""
        return self._recording

    def capture(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Returns what the current call needs to go on from this boundary.

        Args:
            tensors: Takes copies of the tensors that it needs.

        Raises:
            runs.NotCapturableError: Something in it has no form as data.
        """
        if self._following is None:
            raise runs.NotCapturableError("the run is not at a boundary")
        return self._recording.capture(*self._following, tensors)

    def timesteps_set(self, scheduler: object) -> None:
        """Takes note that a loop will begin; see `seams.Seams`."""
        if not self._is_stepping:
            self._recording.timesteps_set(scheduler)
            if self._resumption is not None:
                self._resumption.replay.timesteps_set()
        self._count.timesteps_set()
        self._step_began = None
        for pipeline in self._pipelines:
            if _LENGTH in vars(pipeline):
                vars(pipeline)[_LENGTH] = _Outdated(vars(pipeline)[_LENGTH] or 0)

    def step(self, call: seams.StepCall) -> object:
        """Computes a step and reports it; see `seams.Seams`."""
        if self._is_stepping:
            return call.run()  # A solver that is made of steps of its own.
        self._pass_seam()
        self._is_stepping = True
        try:
            if self._resumption is not None:
                result = self._resumption.replay.step(call)
            else:
                result = call.run()
                self._recording.stepped(call, result)
        finally:
            self._is_stepping = False
        self._has_stepped = True
        if self._report(call) and self._painter is not None and self._observer.wants_preview():
            self._preview(self._painter, call, result)
        return result

    def module(self, call: seams.ModuleCall) -> object:
        """Computes a module; see `seams.Seams`."""
        caches = self._recording.caches.around(call.name, call.module)
        self._pass_seam()
        if call.method == "forward":
            if self._has_stepped:
                self._has_stepped = False
                self._boundary(call)
            self._count.forward_started()
            if self._step_began is None:
                self._step_began = self._clock()
        if self._is_calling:
            return call.run()  # Within another module.
        self._recording.approached(call)
        self._is_calling = True
        try:
            if self._resumption is not None:
                return self._resumption.replay.module(call, caches)
            with caches:
                result = call.run()
            self._recording.called(call, result)
        finally:
            self._is_calling = False
        return result

    def _boundary(self, call: seams.ModuleCall) -> None:
        if self._resumption is not None:
            if not self._resumption.replay.is_complete:
                return
            self._catch_up(self._resumption, call)
        # Within another module's call there is nowhere to go on.
        self._following = None if self._is_calling else (call, sys._getframe(1))
        try:
            self._observer.boundary()
        finally:
            self._following = None
        self.check()

    def _catch_up(self, resumption: "Resumption", call: seams.ModuleCall) -> None:
        resumption.replay.catch_up(call, sys._getframe(2))
        if self._count.done != resumption.step:
            raise replay.DivergedError
        self._resumption = None
        self._step_began = None
        self._observer.resumed(resumption.step, resumption.exactness)
        self.check()

    def _pass_seam(self) -> None:
        self.has_computed = True
        self.check()
        self._observer.seam()
        self.check()

    def _preview(self, painter: previews.Painter, call: seams.StepCall, returned: object) -> None:
        latents = denoised.estimate(call, returned)
        pixels = None if latents is None else painter.paint(latents, aspect=self._aspect)
        if pixels is None:
            return
        height, width, _ = pixels.shape
        picture = runs.PreviewData(
            step=self._count.done, width=width, height=height, pixels=pixels.numpy().tobytes()
        )
        self._observer.preview(picture)

    def _report(self, call: seams.StepCall) -> bool:
        """Tells of a step; returns whether one was done that had not been done before."""
        timestep = call.argument("timestep")
        token = timestep if isinstance(timestep, torch.Tensor) else None
        if not self._count.step_done(id(call.scheduler), token):
            return False
        if self._count.in_loop == 1:
            self._measure(call.scheduler, timestep)
        if self._resumption is not None:
            return False
        now = self._clock()
        seconds = 0.0 if self._step_began is None else now - self._step_began
        self._step_began = now
        self.step_seconds.append(seconds)
        report = runs.StepReport(
            step=self._count.done,
            total=self._count.total,
            timestep=self._number(timestep),
            seconds=seconds,
        )
        self._observer.step_done(report)
        return True

    def _measure(self, scheduler: object, timestep: object) -> None:
        """Finds out how long the loop is, once in it: only then is its start known."""
        timesteps = _numbers(getattr(scheduler, "timesteps", None))
        self._host_timesteps = timesteps[_start(scheduler, timesteps, timestep) :]
        told = [vars(pipeline).get(_LENGTH) for pipeline in self._pipelines]
        lengths = [length for length in told if type(length) is int and length > 0]
        self._count.loop_measured(max(lengths, default=len(self._host_timesteps)))

    def _number(self, timestep: object) -> float:
        """Returns a timestep without waiting for a GPU, which would compute nothing until then."""
        if isinstance(timestep, torch.Tensor) and timestep.device.type != "cpu":
            index = self._count.in_loop - 1
            known = self._host_timesteps
            return known[index] if index < len(known) else float("nan")
        if isinstance(timestep, torch.Tensor) and timestep.numel() == 1:
            return float(timestep.item())
        numbers = _numbers(timestep)
        return numbers[0] if len(numbers) == 1 else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumption:
    """Where a call goes on."""

    replay: replay.Replay
    step: int
    """Of the checkpoint."""
    exactness: worker_pb2.Exactness
    """What can be promised of the result."""


class _Outdated(int):
    """The length of a loop that a pipeline has told before its timesteps were set anew."""


def _start(scheduler: object, timesteps: list[float], first: object) -> int:
    """Returns where a loop begins: a picture to start from skips the first timesteps."""
    begin = getattr(scheduler, "begin_index", None)
    if isinstance(begin, int):
        return begin
    numbers = _numbers(first)
    if len(numbers) == 1 and numbers[0] in timesteps:
        return timesteps.index(numbers[0])
    return 0


def _numbers(value: object) -> list[float]:
    if isinstance(value, (torch.Tensor, numpy.ndarray, numpy.generic)):
        return [float(number) for number in numpy.ravel(value.tolist())]
    if isinstance(value, (int, float)):
        return [float(value)]
    if isinstance(value, (list, tuple)):
        return [float(number) for number in value if isinstance(number, (int, float))]
    return []

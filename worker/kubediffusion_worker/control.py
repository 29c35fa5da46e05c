"""Follows one run at the seams of its pipeline: progress, cancel, boundaries."""

import time
from collections.abc import Callable, Sequence

import numpy
import torch
from diffusers.pipelines import pipeline_utils

from kubediffusion_worker import progress, runs, seams

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
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._observer = observer
        self._clock = clock
        self._count = progress.StepCount(calls)
        self._pipelines: Sequence[pipeline_utils.DiffusionPipeline] = ()
        self._host_timesteps: list[float] = []
        self._is_cancelled = False
        self._is_stepping = False
        self._has_stepped = False
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

    def call_started(self, pipelines: Sequence[pipeline_utils.DiffusionPipeline]) -> None:
        """Takes note that a call begins.

        Args:
            pipelines: The copy that is called and all that are nested in it.
        """
        self._pipelines = pipelines
        self._count.call_started()
        self._has_stepped = False
        self._step_began = None
        self.has_computed = False

    def call_ended(self) -> None:
        """Lets go of all that belongs to the call."""
        self._pipelines = ()
        self._count.call_ended()

    def timesteps_set(self, scheduler: object) -> None:
        """Takes note that a loop will begin; see `seams.Seams`."""
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
            result = call.run()
        finally:
            self._is_stepping = False
        self._has_stepped = True
        self._report(call)
        return result

    def module(self, call: seams.ModuleCall) -> object:
        """Computes a module; see `seams.Seams`."""
        self._pass_seam()
        if call.method == "forward":
            if self._has_stepped:
                self._has_stepped = False
                self._observer.boundary()
                self.check()
            self._count.forward_started()
            if self._step_began is None:
                self._step_began = self._clock()
        return call.run()

    def _pass_seam(self) -> None:
        self.has_computed = True
        self.check()
        self._observer.seam()
        self.check()

    def _report(self, call: seams.StepCall) -> None:
        timestep = call.argument("timestep")
        token = timestep if isinstance(timestep, torch.Tensor) else None
        if not self._count.step_done(id(call.scheduler), token):
            return
        if self._count.in_loop == 1:
            self._measure(call.scheduler, timestep)
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

"""One attempt at one generation, from its specification to its raw outputs."""

import contextlib
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    calls,
    control,
    failures,
    fork,
    outputs,
    randomness,
    runs,
)

if TYPE_CHECKING:
    from kubediffusion_worker import pipeline


class PipelineRun:
    """A run of a shared pipeline; see `runs.Run`."""

    def __init__(
        self,
        shared: "pipeline.SharedPipeline",
        spec: worker_pb2.GenerationSpec,
        *,
        seed: int,
        observer: runs.RunObserver,
    ) -> None:
        """Prepares nothing and computes nothing yet; see `runs.LoadedPipeline.start_run`."""
        self._shared = shared
        self._spec = spec
        self._seed = seed
        self._control = control.RunControl(observer, calls=max(spec.num_outputs, 1))

    def cancel(self) -> None:
        """Makes the run raise at its next seam; from any thread, at any time."""
        self._control.cancel()

    def capture(self) -> runs.CheckpointDraft:
        """Saves the state at a boundary; see `runs.Run`."""
        raise runs.NotCapturableError("runs of pipelines cannot be saved")

    def park(self) -> bool:
        """Prepares for other runs to compute; see `runs.Run`."""
        return False

    def unpark(self) -> None:
        """Prepares to go on; see `runs.Run`."""

    def execute(self) -> runs.RunOutcome:
        """Computes on the calling thread; see `runs` for what it raises. Call it once."""
        began = time.perf_counter()
        call = self._shared.prepare(self._spec)
        made: list[runs.OutputData] = []
        peak = _memory_peak(self._shared.torch_device)
        with self._shared.adapters.active(self._spec.adapters):
            for number in range(call.num_outputs):
                made.extend(self._make(call, self._seed + number))
        step_seconds = self._control.step_seconds
        return runs.RunOutcome(
            outputs=tuple(made),
            steps=self._control.steps,
            compute_seconds=time.perf_counter() - began,
            step_seconds=statistics.median(step_seconds) if step_seconds else 0.0,
            peak_memory_bytes=peak(),
        )

    def _make(self, call: calls.PipelineCall, seed: int) -> tuple[runs.OutputData, ...]:
        """Calls the pipeline for one output."""
        self._control.check()
        arguments = dict(call.arguments)
        if call.takes_generator:
            generator = torch.Generator(call.generator_device)
            arguments["generator"] = generator.manual_seed(seed)
        failure: BaseException
        try:
            with (
                randomness.isolated(seed),
                torch.no_grad(),
                self._shared.lent(call.task, self._control) as lent,
            ):
                self._control.call_started(fork.pipelines(lent))
                returned = cast("Callable[..., object]", lent)(**arguments)
                return outputs.collect(returned, wanted=call.output_type, seed=seed)
        except runs.RunCancelled:
            failure = runs.RunCancelled()
        except Exception as error:  # noqa: BLE001  # a pipeline is foreign code, it raises anything
            failure = self._translated(error, call)
        finally:
            self._control.call_ended()
        # Raised out here, the new error does not hold on to the pipeline's one: that has frames
        # in which the tensors of the failed call would live on.
        if not isinstance(failure, runs.RunCancelled):
            self._free_memory()
        raise failure

    def _translated(self, error: Exception, call: calls.PipelineCall) -> BaseException:
        if isinstance(error, errors.KubediffusionError):
            return error.with_traceback(None)
        return failures.translate(
            error,
            secrets=call.secrets,
            parameters=self._shared.accepted(call.task),
            given=call.arguments.keys(),
            has_computed=self._control.has_computed,
        )

    def _free_memory(self) -> None:
        # Handlers of exceptions tend to leave circles behind. A cancelled run has none.
        gc.collect()
        if self._shared.torch_device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # A failed device says so in the self-test.
                torch.cuda.empty_cache()


def _memory_peak(device: torch.device) -> Callable[[], int]:
    """Returns what tells the peak of memory in bytes, from now on where that can be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    # In KiB, but in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""One attempt at one generation, from its specification to its raw outputs."""

import contextlib
import gc
import resource
import statistics
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers
from kubediffusion_worker import (
    calls,
    checkpoint,
    control,
    failures,
    fork,
    outputs,
    randomness,
    replay,
    runs,
    saved_runs,
    stopwatch,
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
        saved: checkpoint.Checkpoint | None = None,
    ) -> None:
        """Prepares nothing and computes nothing yet; see `runs.LoadedPipeline.start_run`."""
        self._shared = shared
        self._spec = spec
        self._seed = seed
        self._clock = stopwatch.Stopwatch()
        self._control = control.RunControl(
            observer,
            calls=max(spec.num_outputs, 1),
            painter=shared.painter,
            aspect=spec.width / spec.height if spec.height > 0 < spec.width else 1.0,
            clock=self._clock,
        )
        self._resume_modules: Callable[[], None] = _nothing
        self._use_adapters: Callable[[], None] = _nothing
        self._saved = saved
        self._finished: list[saved_runs.FinishedCall] = []
        self._exactness = worker_pb2.EXACTNESS_EXACT

    def cancel(self) -> None:
        """Makes the run raise at its next seam; from any thread, at any time."""
        self._control.cancel()

    def capture(self) -> runs.CheckpointDraft:
        """Saves the state at a boundary; see `runs.Run`."""
        tensors: dict[str, torch.Tensor] = {}
        body = {
            "finished": saved_runs.to_json(self._finished, tensors),
            "call": self._control.capture(tensors),
        }
        return saved_runs.Draft(
            checkpoint.Checkpoint(
                step=self._control.steps,
                fingerprint=self._shared.fingerprint_for(self._spec),
                spec_digest=identifiers.spec_digest(self._spec),
                seed=self._seed,
                weights_digest=self._shared.weights_digest,
                class_name=self._shared.class_name,
                body=body,
                tensors=tensors,
            )
        )

    def park(self) -> bool:
        """Prepares for other runs to compute; see `runs.Run`."""
        resume = self._shared.set_aside()
        if resume is None:
            return False
        self._resume_modules = resume
        self._clock.stop()
        return True

    def unpark(self) -> None:
        """Prepares to go on; see `runs.Run`."""
        self._clock.go_on()
        resume, self._resume_modules = self._resume_modules, _nothing
        self._use_adapters()
        resume()

    def execute(self) -> runs.RunOutcome:
        """Computes on the calling thread; see `runs` for what it raises. Call it once."""
        began = self._clock()
        call = self._shared.prepare(self._spec)
        peak = _memory_peak(self._shared.torch_device)
        with self._shared.adapters.active(self._spec.adapters) as self._use_adapters:
            resumed_from = self._compute(call)
        step_seconds = self._control.step_seconds
        return runs.RunOutcome(
            outputs=tuple(each for made in self._finished for each in made.outputs),
            steps=self._control.steps,
            compute_seconds=self._clock() - began,
            step_seconds=statistics.median(step_seconds) if step_seconds else 0.0,
            peak_memory_bytes=peak(),
            exactness=self._exactness,
            resumed_from=resumed_from,
        )

    def _compute(self, call: calls.PipelineCall) -> int:
        """Makes all outputs; returns the step of the checkpoint that it has gone on from."""
        saved, self._saved = self._saved, None
        if saved is None:
            self._make_rest(call, None)
            return 0
        try:
            if self._shared.resume_capability == worker_pb2.RESUME_CAPABILITY_RESTART:
                raise replay.DivergedError
            self._exactness = self._promise(saved)
            self._finished = saved_runs.from_json(saved.body["finished"], saved.tensors)
            for made in self._finished:
                self._control.call_skipped(made.steps)
            self._make_rest(call, saved)
        except replay.DivergedError:
            self._finished = []
            self._exactness = worker_pb2.EXACTNESS_RESTARTED
            self._control.restart()
            self._make_rest(call, None)
            return 0
        return saved.step

    def _make_rest(self, call: calls.PipelineCall, saved: checkpoint.Checkpoint | None) -> None:
        while len(self._finished) < call.num_outputs:
            before = self._control.steps
            made = self._make(call, self._seed + len(self._finished), saved)
            self._finished.append(
                saved_runs.FinishedCall(steps=self._control.steps - before, outputs=made)
            )
            saved = None

    def _promise(self, saved: checkpoint.Checkpoint) -> worker_pb2.Exactness:
        """Returns what can be said of a result that goes on from a checkpoint."""
        is_alike = saved.fingerprint == self._shared.fingerprint_for(self._spec)
        is_exact = self._shared.resume_capability == worker_pb2.RESUME_CAPABILITY_EXACT
        return worker_pb2.EXACTNESS_EXACT if is_alike and is_exact else worker_pb2.EXACTNESS_CLOSE

    def _make(
        self, call: calls.PipelineCall, seed: int, saved: checkpoint.Checkpoint | None
    ) -> tuple[runs.OutputData, ...]:
        """Calls the pipeline for one output."""
        self._control.check()
        arguments = dict(call.arguments)
        generators: list[torch.Generator] = []
        if call.takes_generator:
            generators.append(torch.Generator(call.generator_device).manual_seed(seed))
            arguments["generator"] = generators[0]
        failure: BaseException
        try:
            with (
                randomness.isolated(seed),
                torch.no_grad(),
                self._shared.lent(call.task, self._control) as lent,
            ):
                self._control.call_started(
                    fork.pipelines(lent), generators, self._resumption(saved)
                )
                returned = cast("Callable[..., object]", lent)(**arguments)
                if self._control.is_replaying:
                    raise replay.DivergedError
                return outputs.collect(returned, wanted=call.output_type, seed=seed)
        except runs.RunCancelled:
            failure = runs.RunCancelled()
        except replay.DivergedError:
            failure = replay.DivergedError()
        except Exception as error:  # noqa: BLE001  # a pipeline is foreign code, it raises anything
            # What it has raised over stand-ins is no failure of the request.
            is_replaying = self._control.is_replaying
            failure = replay.DivergedError() if is_replaying else self._translated(error, call)
        finally:
            self._control.call_ended()
        # Raised out here, the new error does not hold on to the pipeline's one: that has frames
        # in which the tensors of the failed call would live on.
        if not isinstance(failure, runs.RunCancelled):
            self._free_memory()
        raise failure

    def _resumption(self, saved: checkpoint.Checkpoint | None) -> control.Resumption | None:
        if saved is None:
            return None
        return control.Resumption(
            replay=replay.Replay(
                saved.body["call"],
                saved.tensors,
                device=self._shared.torch_device,
                record=self._control.recording,
                is_strict=self._exactness == worker_pb2.EXACTNESS_EXACT,
            ),
            step=saved.step,
            exactness=self._exactness,
        )

    def _translated(self, error: Exception, call: calls.PipelineCall) -> BaseException:
        if self._control.is_replaying:
            # What stands in for the truth may be more than a pipeline can bear.
            return replay.DivergedError()
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


def _nothing() -> None:
    """Resumes what was not set aside."""


def _memory_peak(device: torch.device) -> Callable[[], int]:
    """Returns what tells the peak of memory in bytes, from now on where that can be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    # In KiB, but in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

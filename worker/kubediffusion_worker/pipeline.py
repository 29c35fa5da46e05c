"""A pipeline in memory: the weights once, and a fork of everything else for each call."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from diffusers.pipelines import pipeline_utils

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers
from kubediffusion_worker import (
    adapters,
    calls,
    certification,
    execution,
    fingerprint,
    fork,
    guard,
    model,
    outputs,
    previews,
    randomness,
    runs,
    seams,
    smallest,
    variants,
)
from kubediffusion_worker import checkpoint as checkpoint_file

_SELF_TEST_SIZE = 64


class SharedPipeline:
    """What all runs of a process share; see `runs.LoadedPipeline`."""

    def __init__(
        self,
        pipeline: pipeline_utils.DiffusionPipeline,
        *,
        config: model.ModelConfig,
        device: torch.device,
        weights_digest: str,
        revision: str = "",
    ) -> None:
        """Takes over a pipeline that is on its device and has not been called yet.

        Args:
            pipeline: Stays as it is, but for adapters that are loaded.
            config: How it was loaded.
            device: Where it computes.
            weights_digest: Names its weights.
            revision: The commit of the hub's repository, if it is from there.
        """
        self.config = config
        self.class_name = type(pipeline).__name__
        self.dtype = str(pipeline.dtype).removeprefix("torch.")
        self.revision = revision
        self.weights_digest = weights_digest
        self.torch_device = device
        self.device = _device_name(device)
        self.certificate = certification.ASSUMED
        """What resuming gives; `loading` replaces it by what was measured."""
        self._pipeline = pipeline
        self._pristine = fork.Pristine()
        self._pristine.remember(pipeline)
        with fork.forked(pipeline, self._pristine, _Unwatched()) as probe:
            self._calls = variants.task_calls(probe)
        self._guard = self._new_guard()
        self.painter: previews.Painter | None = None
        """Makes previews; `loading` fits one where it can."""
        self.parameters = variants.all_parameters(self._calls)
        self.adapters = adapters.AdapterShelf(pipeline, on_change=self._renew_guard)
        self.fingerprint_facts: Mapping[str, str] = fingerprint.facts(
            config, weights_digest=weights_digest, device=device, dtype=self.dtype
        )
        self.fingerprint = fingerprint.of(self.fingerprint_facts)

    @classmethod
    def from_pipeline(
        cls, pipeline: pipeline_utils.DiffusionPipeline, *, name: str = "in-process"
    ) -> "SharedPipeline":
        """Shares a pipeline that was built or loaded elsewhere, and has not been called yet.

        Args:
            pipeline: On its device; stays as it is, but for adapters that are loaded.
            name: What the model is called.
        """
        modules = {
            key: part
            for key, part in pipeline.components.items()
            if isinstance(part, torch.nn.Module)
        }
        return cls(
            pipeline,
            config=model.ModelConfig(model=name),
            device=pipeline._execution_device,
            weights_digest=fingerprint.weights_in_memory(modules),
        )

    @property
    def cancel_capability(self) -> worker_pb2.CancelCapability:
        """How soon a cancel takes effect: within a step where there are steps."""
        parts = vars(self._pipeline).values()
        if any(fork.is_scheduler(part) for part in parts):
            return worker_pb2.CANCEL_CAPABILITY_STEP
        return worker_pb2.CANCEL_CAPABILITY_FORWARD

    @property
    def resume_capability(self) -> worker_pb2.ResumeCapability:
        """What going on from a checkpoint gives; see `runs.LoadedPipeline`."""
        return self.certificate.resume

    @property
    def has_previews(self) -> bool:
        """Whether runs can give previews."""
        return self.painter is not None

    @property
    def is_exclusive(self) -> bool:
        """Whether no other run may compute between the steps of one.

        Models that take turns on the device would be there two at a time.
        """
        return bool(getattr(self._pipeline, "_all_hooks", None))

    def read_checkpoint(self, data: bytes | memoryview) -> runs.CheckpointFacts:
        """Checks a checkpoint; see `runs.LoadedPipeline`."""
        facts = checkpoint_file.facts(data)
        self._open(data)
        return facts

    def _open(self, data: bytes | memoryview) -> checkpoint_file.Checkpoint:
        found = checkpoint_file.decode(data)
        if found.class_name != self.class_name or found.weights_digest != self.weights_digest:
            raise errors.InvalidCheckpointError("the checkpoint is of another model")
        return found

    def check(self, spec: worker_pb2.GenerationSpec) -> None:
        """Refuses what the call cannot take; see `runs.LoadedPipeline`."""
        calls.check(spec, self._calls)
        self.adapters.check(spec.adapters)

    def fingerprint_for(self, spec: worker_pb2.GenerationSpec) -> str:
        """Returns the fingerprint of a run: the worker's, and that of the adapters in use.

        Raises:
            errors.AdapterNotFoundError: A LoRA adapter is not resident.
        """
        return fingerprint.with_adapters(self.fingerprint, self.adapters.digests(spec.adapters))

    def start_run(
        self,
        spec: worker_pb2.GenerationSpec,
        *,
        seed: int,
        observer: runs.RunObserver,
        checkpoint: bytes | None = None,
    ) -> "execution.PipelineRun":
        """Makes a run; see `runs.LoadedPipeline`."""
        saved = None if checkpoint is None else self._open(checkpoint)
        if saved is not None:
            if saved.spec_digest != identifiers.spec_digest(spec):
                raise errors.InvalidCheckpointError("the checkpoint is of another request")
            if saved.seed != seed:
                raise errors.InvalidCheckpointError("the checkpoint is of another seed")
        return execution.PipelineRun(self, spec, seed=seed, observer=observer, saved=saved)

    def prepare(self, spec: worker_pb2.GenerationSpec) -> calls.PipelineCall:
        """Turns a specification into a call.

        Raises:
            errors.InvalidRequestError: With all violations that were found.
        """
        return calls.prepare(spec, self._calls, device=str(self.torch_device))

    def accepted(self, task: variants.Task) -> tuple[str, ...]:
        """Returns the names of all parameters of a task's call."""
        return tuple(self._calls[task].signature)

    @contextlib.contextmanager
    def lent(
        self, task: variants.Task, handler: seams.Seams
    ) -> Iterator[pipeline_utils.DiffusionPipeline]:
        """Lends a copy for one call of a task, with a handler at its seams."""
        try:
            with fork.forked(self._pipeline, self._pristine, handler) as copy:
                yield variants.for_task(copy, task)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # A failed device says so in the self-test.
                # Takes offloaded models from the device and resets step caches, as calls that
                # reach their end do.
                self._pipeline.maybe_free_model_hooks()
            raise
        finally:
            self._guard.restore()

    def smallest_requests(self) -> Iterator[worker_pb2.GenerationSpec]:
        """Yields requests to try the pipeline with, the cheapest first."""
        return smallest.requests(self._calls[variants.Task.OWN].signature)

    def compute_plainly(
        self, spec: worker_pb2.GenerationSpec, *, seed: int
    ) -> tuple[runs.OutputData, ...]:
        """Calls the pipeline itself, as a user of diffusers would, for one output."""
        call = self.prepare(spec)
        arguments = dict(call.arguments)
        if call.takes_generator:
            arguments["generator"] = torch.Generator(call.generator_device).manual_seed(seed)
        with randomness.isolated(seed), torch.no_grad():
            returned = cast("Callable[..., object]", self._pipeline)(**arguments)
        return outputs.collect(returned, wanted=call.output_type, seed=seed)

    def set_aside(self) -> Callable[[], None] | None:
        """Puts the modules in order for other runs while one is parked; see `guard`."""
        return None if self.is_exclusive else self._guard.set_aside()

    def self_test(self) -> None:
        """Computes a little on the device; see `runs.LoadedPipeline`."""
        try:
            ones = torch.ones(_SELF_TEST_SIZE, _SELF_TEST_SIZE, device=self.torch_device)
            total = float((ones @ ones).sum())
        except (RuntimeError, MemoryError) as error:
            raise runs.StickyDeviceError(f"the device does not compute: {error}") from None
        if total != _SELF_TEST_SIZE**3:
            raise runs.StickyDeviceError(
                f"the device computes wrongly: wanted {_SELF_TEST_SIZE**3}, found {total}"
            )

    def _new_guard(self) -> guard.ModuleGuard:
        return guard.ModuleGuard(fork.modules(self._pipeline))

    def _renew_guard(self) -> None:
        self._guard = self._new_guard()


class _Unwatched:
    """Lets all calls pass."""

    def timesteps_set(self, scheduler: object) -> None:
        pass

    def step(self, call: seams.StepCall) -> object:
        return call.run()

    def module(self, call: seams.ModuleCall) -> object:
        return call.run()


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    return f"cuda:{device.index or 0} {torch.cuda.get_device_name(device)}"

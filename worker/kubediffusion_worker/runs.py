"""What the runtime of a worker knows of pipelines: one run, what it reports, what it returns.

Nothing here imports torch, so that a process answers its first calls, and tests of the runtime
run, before or without it. `pipeline.SharedPipeline` and `execution.PipelineRun` are the real
`LoadedPipeline` and `Run`.

A run raises, on the compute thread:

- `RunCancelled`, because `Run.cancel` was called,
- `errors.InvalidRequestError`: the pipeline refused its arguments,
- `errors.PipelineError`: the pipeline's code raised; the pipeline is as before,
- `errors.DeviceMemoryError`: it did not fit; the pipeline is as before,
- `StickyDeviceError`: the device computes no more until the process is new,
- `errors.InvalidCheckpointError`: the checkpoint that it should go on from is not one of it,
- whatever the observer raised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from kubediffusion_proto.v1 import worker_pb2


class RunCancelled(BaseException):
    """Leaves a pipeline because its run was cancelled; no pipeline code catches it."""


class NotCapturableError(Exception):
    """Is raised when the state of a run cannot be saved; the run itself goes on."""


class StickyDeviceError(Exception):
    """Is raised when the device has failed for the rest of the process's life."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """Says that one denoising step of a run is done."""

    step: int
    """Steps that are done, over all outputs of the run; grows by one from 1."""
    total: int
    """Steps of the whole run as far as known, at least `step`; 0 where unknown."""
    timestep: float
    """The scheduler's timestep of this step; NaN where it has none."""
    seconds: float
    """From the end of the step before, or from the first forward of a loop."""


class RunObserver(Protocol):
    """Follows one run. It is called on the compute thread, so it must be fast."""

    def step_done(self, report: StepReport) -> None:
        """Takes note of a step."""

    def seam(self) -> None:
        """Takes note of a sign of life, right before a module's forward or a step.

        What it raises leaves the pipeline.
        """

    def boundary(self) -> None:
        """Takes note that an iteration of the denoising loop is complete.

        Right before the first forward after a step: the one place where a run may be parked
        or saved. What it raises leaves the pipeline.
        """

    def resumed(self, step: int, exactness: worker_pb2.Exactness) -> None:
        """Takes note that a run has caught up with its checkpoint.

        Args:
            step: That the checkpoint was taken after; steps up to it are not reported. 0
                where the run could not go on from it and computes everything from its seed.
            exactness: What can be promised of the result.
        """

    def wants_preview(self) -> bool:
        """Tells, right after a step, whether a preview is worth its cost now."""
        ...

    def preview(self, picture: "PreviewData") -> None:
        """Takes a preview; it is encoded elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewData:
    """A small picture of what a run is about to make."""

    step: int
    """Steps that were done."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    pixels: bytes
    """RGB, rows first: 3 * width * height bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputData:
    """One picture, video, sound or array, as raw elements or as an encoded file."""

    kind: worker_pb2.OutputKind
    encoding: worker_pb2.Encoding
    """`ENCODING_RAW` or the encoding of the file."""
    dtype: str
    """torch's name of the elements' type; empty for files."""
    shape: tuple[int, ...]
    """[height, width, channels], [frames, height, width, channels] or the pipeline's own, in
    each case without an axis for the batch."""
    data: memoryview | bytes
    """C-contiguous, little-endian; a memoryview has the format "B"."""
    seed: int
    """What the random generator of this output started from."""
    is_flagged: bool | None = None
    """The verdict of the pipeline's safety checker, where there is one."""
    name: str = ""
    """The pipeline's name of the field, for example "images"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """What a run made, and what it took."""

    outputs: tuple[OutputData, ...]
    """Raw; `encodings.encode` turns them into files, off the compute thread."""
    steps: int
    compute_seconds: float
    """Of the whole run."""
    step_seconds: float
    """Median over the steps; 0 where there was none."""
    peak_memory_bytes: int
    """Of torch's allocator during the run; on the CPU, of the process in its life."""
    exactness: worker_pb2.Exactness = worker_pb2.EXACTNESS_EXACT
    """Against the undisturbed run."""
    resumed_from: int = 0
    """The step of the checkpoint that the run went on from; 0 where it computed all."""


class CheckpointDraft(Protocol):
    """The state of a run at a boundary. It shares nothing that the run still changes."""

    @property
    def step(self) -> int:
        """Steps that are done."""
        ...

    def to_bytes(self) -> bytes:
        """Returns the checkpoint as a file; takes a while, on any thread but the compute one.

        Raises:
            NotCapturableError: It would be over the limit of size.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFacts:
    """What a checkpoint says about itself."""

    step: int
    """Steps that were done."""
    fingerprint: str
    """Of the run that it was taken from."""
    spec_digest: str
    """Of its specification, sha256, hexadecimal."""
    seed: int
    """Of its first output."""
    format: int
    """Version of the bytes."""


class Run(Protocol):
    """One attempt at one generation."""

    def execute(self) -> RunOutcome:
        """Computes on the calling thread; see the module for what it raises. Call it once."""
        ...

    def cancel(self) -> None:
        """Makes the run raise `RunCancelled` at its next seam; from any thread, at any time."""

    def capture(self) -> CheckpointDraft:
        """Saves the state; on the compute thread, from inside of `RunObserver.boundary` alone.

        Raises:
            NotCapturableError: Something in it has no form as data; later boundaries may do.
        """
        ...

    def park(self) -> bool:
        """Prepares for other runs to compute before this one goes on, with `unpark`.

        It is called on the compute thread, from inside of `RunObserver.boundary` alone, as are
        `unpark` and, while the run is not parked, `capture`.

        Returns:
            Whether they may. If not, the run has changed something that they share, and goes on.
        """
        ...

    def unpark(self) -> None:
        """Prepares to go on after others have computed. What it raises leaves the pipeline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedAdapter:
    """A LoRA adapter in memory."""

    name: str
    sha256: str
    """Of its file, hexadecimal."""


class AdapterShelf(Protocol):
    """The LoRA adapters in memory; inactive except while a run uses them."""

    @property
    def is_supported(self) -> bool:
        """Whether the pipeline can take LoRA adapters at all."""
        ...

    @property
    def resident(self) -> tuple[LoadedAdapter, ...]:
        """What is loaded, sorted by name; may be read on any thread."""
        ...

    def load(self, name: str, source: str, weight_name: str = "") -> LoadedAdapter:
        """Loads an adapter; one of the same name is replaced.

        Args:
            name: 1 to 128 characters of [A-Za-z0-9._:-].
            source: A folder, a file or a hub id.
            weight_name: The file within a folder or hub id; empty: diffusers' default.

        Raises:
            errors.AdapterNotFoundError: There is none at the source.
            errors.InvalidRequestError: It cannot be used with this pipeline, or it is no
                safetensors file.
        """
        ...

    def unload(self, name: str) -> bool:
        """Removes an adapter; returns whether there was one."""
        ...


class LoadedPipeline(Protocol):
    """A pipeline in memory, shared by all runs. Only one run may execute at a time."""

    @property
    def class_name(self) -> str:
        """The pipeline's class, for example "StableDiffusionPipeline"."""
        ...

    @property
    def device(self) -> str:
        """What computes, for example "cpu" or "cuda:0 NVIDIA H100 80GB HBM3"."""
        ...

    @property
    def dtype(self) -> str:
        """The weights' type by torch's name, for example "bfloat16"."""
        ...

    @property
    def revision(self) -> str:
        """The commit of the hub's repository; empty for local folders."""
        ...

    @property
    def weights_digest(self) -> str:
        """Names the weights: sha256, hexadecimal."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names all that results depend on bit for bit: sha256, hexadecimal."""
        ...

    @property
    def fingerprint_facts(self) -> Mapping[str, str]:
        """The facts behind the fingerprint."""
        ...

    @property
    def parameters(self) -> tuple[worker_pb2.Parameter, ...]:
        """What the pipeline's call takes, image-to-image and inpainting included."""
        ...

    @property
    def cancel_capability(self) -> worker_pb2.CancelCapability:
        """How soon a cancel takes effect."""
        ...

    @property
    def resume_capability(self) -> worker_pb2.ResumeCapability:
        """What going on from a checkpoint gives; measured where that is possible."""
        ...

    @property
    def has_previews(self) -> bool:
        """Whether runs can give previews."""
        ...

    @property
    def is_exclusive(self) -> bool:
        """Whether a run changes shared modules, so that no other may run between its steps."""
        ...

    @property
    def adapters(self) -> AdapterShelf:
        """The resident LoRA adapters. Use it on the compute thread, between runs."""
        ...

    def check(self, spec: worker_pb2.GenerationSpec) -> None:
        """Refuses what the pipeline's call cannot take; computes nothing, on any thread.

        Raises:
            errors.InvalidRequestError: With all violations that were found.
            errors.AdapterNotFoundError: A LoRA adapter is not resident.
        """

    def fingerprint_for(self, spec: worker_pb2.GenerationSpec) -> str:
        """Names all that the result of a run depends on, the adapters in use included.

        Raises:
            errors.AdapterNotFoundError: A LoRA adapter is not resident.
        """
        ...

    def read_checkpoint(self, data: bytes | memoryview) -> CheckpointFacts:
        """Checks a checkpoint as far as that is possible without a run; on any thread.

        Raises:
            errors.InvalidCheckpointError: It is damaged, too large, of another format or of
                another pipeline.
        """
        ...

    def start_run(
        self,
        spec: worker_pb2.GenerationSpec,
        *,
        seed: int,
        observer: RunObserver,
        checkpoint: bytes | None = None,
    ) -> Run:
        """Makes a run, which computes nothing before `Run.execute`.

        Args:
            spec: What was asked for.
            seed: Of the first output; the specification's own seed does not count.
            observer: Follows the run.
            checkpoint: Of the same specification and seed, to go on from; None: begin anew.
        """
        ...

    def self_test(self) -> None:
        """Computes a little to see whether the device still works; on the compute thread.

        Raises:
            StickyDeviceError: It does not.
        """

"""A pipeline without a model, for tests of everything around pipelines.

It does what the request says: `num_inference_steps` steps, and by `extra_args`

- `raises`: "pipeline", "invalid", "memory", "sticky" or "exit", at step `at` (1 if not given),
- `size`: bytes of each output,
- `step_seconds`: how long a step takes,
- `wait_for`: the path of a file without which no step ends,
- `is_gated`: whether each step needs a permit of `FakePipeline.gate`,
- `cannot_save`: whether its state has no form as data.

Its outputs follow from the seed alone. Its checkpoints are real: a run that goes on from one
takes only the steps that are left. `python -m kubediffusion_worker.testing` is a worker
process with such a pipeline, started like any other. Its model may be called

- "broken", which cannot be loaded,
- "slow:" and the path of a file without which it is not loaded,
- anything else.
"""

import asyncio
import dataclasses
import json
import math
import pathlib
import random
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn, cast

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers, values
from kubediffusion_worker import __main__ as program
from kubediffusion_worker import config, model, runs, runtime

WAIT_SECONDS = 60.0
"""Seconds after which a run stops waiting, so that a failing test ends."""

DEFAULT_SIDE = 8
"""Pixels of height and width."""

Failing = errors.KubediffusionError | runs.StickyDeviceError | SystemExit


class Gate:
    """Lets steps through one by one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._permits = 0

    def allow(self, steps: int = 1) -> None:
        """Let some more steps through; from any thread."""
        with self._condition:
            self._permits += steps
            self._condition.notify_all()

    def wake(self) -> None:
        """Let waiting runs look whether they were cancelled."""
        with self._condition:
            self._condition.notify_all()

    def wait(self, cancelled: threading.Event) -> None:
        """Wait for a permit, and take it; or for a cancel."""
        with self._condition:
            self._condition.wait_for(lambda: self._permits > 0 or cancelled.is_set(), WAIT_SECONDS)
            self._permits = max(0, self._permits - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What one run does."""

    steps: int
    raises: str = ""
    at: int = 1
    size: int | None = None
    step_seconds: float = 0.0
    wait_for: pathlib.Path | None = None
    is_gated: bool = False
    cannot_save: bool = False


def script_of(spec: worker_pb2.GenerationSpec) -> Script:
    """Read what a request says."""
    extra = {name: values.decode(value) for name, value in spec.extra_args.items()}
    wait_for = extra.get("wait_for")
    return Script(
        steps=spec.num_inference_steps if spec.HasField("num_inference_steps") else 4,
        raises=cast("str", extra.get("raises", "")),
        at=cast("int", extra.get("at", 1)),
        size=cast("int | None", extra.get("size")),
        step_seconds=cast("float", extra.get("step_seconds", 0.0)),
        wait_for=pathlib.Path(cast("str", wait_for)) if wait_for else None,
        is_gated=cast("bool", extra.get("is_gated", False)),
        cannot_save=cast("bool", extra.get("cannot_save", False)),
    )


@dataclass
class FakeAdapters:
    """Holds adapters without weights; "missing" is a source that does not exist."""

    is_supported: bool = True
    resident: tuple[runs.LoadedAdapter, ...] = ()

    def load(self, name: str, source: str, weight_name: str = "") -> runs.LoadedAdapter:
        """See `runs.AdapterShelf`."""
        if source == "missing":
            raise errors.AdapterNotFoundError(f"no adapter at {source!r}")
        adapter = runs.LoadedAdapter(name=name, sha256="0" * 64)
        others = (each for each in self.resident if each.name != name)
        self.resident = tuple(sorted((*others, adapter), key=lambda each: each.name))
        return adapter

    def unload(self, name: str) -> bool:
        """See `runs.AdapterShelf`."""
        before = self.resident
        self.resident = tuple(each for each in before if each.name != name)
        return self.resident != before


def _parameters() -> tuple[worker_pb2.Parameter, ...]:
    kinds = {
        "prompt": ["str"],
        "negative_prompt": ["str"],
        "height": ["int"],
        "width": ["int"],
        "num_inference_steps": ["int"],
        "guidance_scale": ["float"],
        "num_images_per_prompt": ["int"],
        "image": ["image"],
        "strength": ["float"],
        "raises": ["str"],
        "at": ["int"],
        "size": ["int"],
        "step_seconds": ["float", "int"],
        "wait_for": ["str"],
        "is_gated": ["bool"],
        "cannot_save": ["bool"],
    }
    return tuple(
        worker_pb2.Parameter(name=name, kinds=each, accepts_none=True)
        for name, each in kinds.items()
    )


@dataclass
class FakePipeline:
    """Is a `runs.LoadedPipeline`; see the module for what it does."""

    class_name: str = "FakePipeline"
    device: str = "cpu"
    dtype: str = "float32"
    revision: str = ""
    weights_digest: str = "0" * 64
    fingerprint: str = "f" * 64
    fingerprint_facts: Mapping[str, str] = field(default_factory=lambda: {"pipeline": "fake"})
    parameters: tuple[worker_pb2.Parameter, ...] = field(default_factory=_parameters)
    cancel_capability: worker_pb2.CancelCapability = worker_pb2.CANCEL_CAPABILITY_STEP
    resume_capability: worker_pb2.ResumeCapability = worker_pb2.RESUME_CAPABILITY_EXACT
    has_previews: bool = True
    is_exclusive: bool = False
    adapters: FakeAdapters = field(default_factory=FakeAdapters)
    gate: Gate = field(default_factory=Gate)
    executed: list[worker_pb2.GenerationSpec] = field(default_factory=list)
    """What was executed, in this order."""
    self_tests: int = 0
    is_broken: bool = False
    """Whether the self-test finds the device broken."""

    def check(self, spec: worker_pb2.GenerationSpec) -> None:
        """See `runs.LoadedPipeline`."""
        known = {each.name for each in self.adapters.resident}
        for use in spec.adapters:
            if use.name not in known:
                raise errors.AdapterNotFoundError(f"adapter {use.name!r} is not loaded")

    def fingerprint_for(self, spec: worker_pb2.GenerationSpec) -> str:
        """See `runs.LoadedPipeline`."""
        self.check(spec)
        return "+".join([self.fingerprint, *sorted(use.name for use in spec.adapters)])

    def read_checkpoint(self, data: bytes | memoryview) -> runs.CheckpointFacts:
        """See `runs.LoadedPipeline`."""
        try:
            return runs.CheckpointFacts(**json.loads(bytes(data)))
        except (ValueError, TypeError):
            raise errors.InvalidCheckpointError("no checkpoint of a fake run") from None

    def start_run(
        self,
        spec: worker_pb2.GenerationSpec,
        *,
        seed: int,
        observer: runs.RunObserver,
        checkpoint: bytes | None = None,
    ) -> "FakeRun":
        """See `runs.LoadedPipeline`."""
        return FakeRun(self, spec, seed, observer, checkpoint)

    def self_test(self) -> None:
        """See `runs.LoadedPipeline`."""
        self.self_tests += 1
        if self.is_broken:
            raise runs.StickyDeviceError("a fake fault that stays")


@dataclass(frozen=True, slots=True)
class FakeDraft:
    """Is a `runs.CheckpointDraft`: the facts alone, as JSON."""

    facts: runs.CheckpointFacts

    @property
    def step(self) -> int:
        """See `runs.CheckpointDraft`."""
        return self.facts.step

    def to_bytes(self) -> bytes:
        """See `runs.CheckpointDraft`."""
        return json.dumps(dataclasses.asdict(self.facts)).encode()


class FakeRun:
    """Is a `runs.Run`."""

    def __init__(
        self,
        pipeline: FakePipeline,
        spec: worker_pb2.GenerationSpec,
        seed: int,
        observer: runs.RunObserver,
        checkpoint: bytes | None,
    ) -> None:
        self._pipeline = pipeline
        self._spec = spec
        self._seed = seed
        self._observer = observer
        self._script = script_of(spec)
        self._cancelled = threading.Event()
        self._resumed_from = pipeline.read_checkpoint(checkpoint).step if checkpoint else 0
        self._step = self._resumed_from

    def cancel(self) -> None:
        """See `runs.Run`."""
        self._cancelled.set()
        self._pipeline.gate.wake()

    def capture(self) -> FakeDraft:
        """See `runs.Run`."""
        if self._script.cannot_save:
            raise runs.NotCapturableError("a fake state without a form as data")
        facts = runs.CheckpointFacts(
            step=self._step,
            fingerprint=self._pipeline.fingerprint_for(self._spec),
            spec_digest=identifiers.spec_digest(self._spec),
            seed=self._seed,
            format=1,
        )
        return FakeDraft(facts)

    def park(self) -> bool:
        """See `runs.Run`."""
        return not self._pipeline.is_exclusive

    def unpark(self) -> None:
        """See `runs.Run`."""

    def execute(self) -> runs.RunOutcome:
        """See `runs.Run`."""
        self._pipeline.executed.append(self._spec)
        begun = time.monotonic()
        if self._resumed_from:
            self._observer.resumed(self._resumed_from, worker_pb2.EXACTNESS_EXACT)
        for step in range(self._resumed_from + 1, self._script.steps + 1):
            self._take_step(step)
        return runs.RunOutcome(
            outputs=tuple(self._outputs()),
            steps=self._script.steps,
            compute_seconds=time.monotonic() - begun,
            step_seconds=self._script.step_seconds,
            peak_memory_bytes=0,
            resumed_from=self._resumed_from,
        )

    def _take_step(self, step: int) -> None:
        script = self._script
        self._observer.seam()
        self._check_cancelled()
        if script.raises and step == script.at:
            raise failure_of(script.raises)
        self._pause()
        self._check_cancelled()
        report = runs.StepReport(
            step=step, total=script.steps, timestep=math.nan, seconds=script.step_seconds
        )
        self._step = step
        self._observer.step_done(report)
        if self._observer.wants_preview():
            pixels = bytes([step % 256]) * (3 * DEFAULT_SIDE**2)
            self._observer.preview(
                runs.PreviewData(step=step, width=DEFAULT_SIDE, height=DEFAULT_SIDE, pixels=pixels)
            )
        if step < script.steps:  # After the last one there is no forward of the loop.
            self._observer.boundary()

    def _pause(self) -> None:
        script = self._script
        if script.is_gated:
            self._pipeline.gate.wait(self._cancelled)
        if script.step_seconds:
            self._cancelled.wait(script.step_seconds)
        if script.wait_for is not None:
            _wait_for(script.wait_for, self._cancelled)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise runs.RunCancelled

    def _outputs(self) -> Sequence[runs.OutputData]:
        spec = self._spec
        height = spec.height if spec.HasField("height") else DEFAULT_SIDE
        width = spec.width if spec.HasField("width") else DEFAULT_SIDE
        count = spec.num_outputs if spec.HasField("num_outputs") else 1
        shape = (height, width, 3) if self._script.size is None else (self._script.size,)
        return [
            runs.OutputData(
                kind=worker_pb2.OUTPUT_KIND_IMAGE
                if len(shape) == 3
                else worker_pb2.OUTPUT_KIND_ARRAY,
                encoding=worker_pb2.ENCODING_RAW,
                dtype="uint8",
                shape=shape,
                data=output_bytes(self._seed + index, math.prod(shape)),
                seed=self._seed + index,
                name="images",
            )
            for index in range(count)
        ]


def _wait_for(path: pathlib.Path, cancelled: threading.Event) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not path.exists() and time.monotonic() < end and not cancelled.wait(0.01):
        pass


def output_bytes(seed: int, size: int) -> bytes:
    """Return what a run puts out for a seed."""
    return random.Random(seed).randbytes(size)


def failure_of(name: str) -> Failing:
    """Return what `raises` stands for."""
    failures: Mapping[str, Failing] = {
        "pipeline": errors.PipelineError("RuntimeError: a fake shape does not fit"),
        "invalid": errors.InvalidRequestError.at("height", "must be divisible by 8; found 7"),
        "memory": errors.DeviceMemoryError("the fake device is full; ask for less"),
        "sticky": runs.StickyDeviceError("a fake fault that stays"),
        "exit": SystemExit(1),
    }
    return failures[name]


def encode_raw(
    outputs: Sequence[runs.OutputData], options: worker_pb2.OutputOptions
) -> Sequence[runs.OutputData]:
    """Return outputs as they are; for runtimes that need not load the encoders' libraries."""
    return outputs


FAKE_MODEL = model.ModelConfig(model="fake")


@asynccontextmanager
async def a_runtime(
    pipeline: FakePipeline | None = None, settings: config.WorkerConfig | None = None
) -> AsyncIterator[runtime.WorkerRuntime]:
    """Run a worker's runtime that serves, with a fake pipeline; it ends without grace."""
    used = pipeline or FakePipeline()
    worker = runtime.WorkerRuntime(
        settings or config.WorkerConfig(model=FAKE_MODEL), load=lambda: used, encode=encode_raw
    )
    await worker.start()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await worker.serving()
        yield worker
    finally:
        await worker.close(0.0)


def load(wanted: model.ModelConfig) -> FakePipeline:
    """Load a fake pipeline; see the module for what its name may say.

    Raises:
        ModelLoadError: It is called "broken".
    """
    if wanted.model == "broken":
        raise model.ModelLoadError("MODEL_NOT_FOUND", "there is no such fake model")
    if wanted.model.startswith("slow:"):
        _wait_for(pathlib.Path(wanted.model.removeprefix("slow:")), threading.Event())
    return FakePipeline()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Be a worker process with a fake pipeline."""
    program.main(arguments, load=load)


if __name__ == "__main__":
    main()

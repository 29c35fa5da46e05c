"""Signs of life of the compute thread, and what they say about a worker's health.

The compute thread writes its signs without a lock; whoever reads them takes a copy. What
follows from a copy is decided by pure functions, because a probe asks for it from a thread
of its own while the rest of the process may hang.
"""

import dataclasses
import enum
import time
from dataclasses import dataclass
from typing import assert_never

from kubediffusion_proto.v1 import worker_pb2

LOOP_LIMIT = 60.0
"""Seconds without a beat of the event loop from which it counts as stuck; importing torch
alone holds the interpreter for seconds."""

STEP_FLOOR = 60.0
"""Seconds without a seam that a denoising loop may always take."""

STEP_MEDIANS = 20.0
"""Steps' worth of time without a seam from which a denoising loop counts as stuck."""

WARM_UP_LIMIT = 600.0
"""Seconds for encoding the prompt and for first steps, which load kernels."""

COMPILE_LIMIT = 1800.0
"""Seconds for first steps where they compile."""

DECODE_LIMIT = 600.0
"""Seconds for turning latents into pictures, and for jobs beside generations."""


class Activity(enum.Enum):
    """What the compute thread does."""

    IDLE = enum.auto()
    LOADING = enum.auto()
    RUNNING = enum.auto()
    JOB = enum.auto()
    """Something else than a generation: adapters, a self-test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """A copy of the signs of life. Times are those of `time.monotonic`."""

    activity: Activity
    seen_at: float
    """The newest seam, step, or change of activity."""
    steps: int
    """Done by the run."""
    total: int
    """Of the run; 0 where unknown."""
    step_seconds: float
    """Of the newest step."""


class Pulse:
    """Written by the compute thread, read by anybody."""

    def __init__(self) -> None:
        self._signs = Signs(
            activity=Activity.IDLE, seen_at=time.monotonic(), steps=0, total=0, step_seconds=0.0
        )
        self._seen_at = self._signs.seen_at

    def begin(self, activity: Activity) -> None:
        """Note that the thread turns to something else."""
        self._seen_at = time.monotonic()
        self._signs = Signs(
            activity=activity, seen_at=self._seen_at, steps=0, total=0, step_seconds=0.0
        )

    def go_on(self, signs: Signs) -> None:
        """Note that the thread turns back to what it did when the signs were read."""
        self._seen_at = time.monotonic()
        self._signs = dataclasses.replace(signs, seen_at=self._seen_at)

    def beat(self) -> None:
        """Note a seam; costs a clock reading."""
        self._seen_at = time.monotonic()

    def step(self, *, steps: int, total: int, seconds: float) -> None:
        """Note a completed step."""
        self._seen_at = time.monotonic()
        self._signs = Signs(
            activity=Activity.RUNNING,
            seen_at=self._seen_at,
            steps=steps,
            total=total,
            step_seconds=seconds,
        )

    def read(self) -> Signs:
        """Copy the signs."""
        signs, seen_at = self._signs, self._seen_at
        return Signs(
            activity=signs.activity,
            seen_at=max(seen_at, signs.seen_at),
            steps=signs.steps,
            total=signs.total,
            step_seconds=signs.step_seconds,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a probe is answered from."""

    state: worker_pb2.WorkerState
    loop_beat: float
    """When the event loop last did something, by `time.monotonic`."""
    signs: Signs
    is_compiling: bool
    """Whether first steps compile."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a probe, with the reason in words."""

    is_ok: bool
    reason: str


def silence_limit(signs: Signs, *, is_compiling: bool) -> float | None:
    """Return the seconds without a sign from which the compute thread counts as stuck.

    Returns:
        None where no silence is too long: nothing to do, or a load, which `started` is for.
    """
    match signs.activity:
        case Activity.IDLE | Activity.LOADING:
            return None
        case Activity.JOB:
            return DECODE_LIMIT
        case Activity.RUNNING:
            return _run_limit(signs, is_compiling=is_compiling)
        case _:
            assert_never(signs.activity)


def _run_limit(signs: Signs, *, is_compiling: bool) -> float:
    if signs.steps < 2:
        return COMPILE_LIMIT if is_compiling else WARM_UP_LIMIT
    if signs.total and signs.steps >= signs.total:
        return DECODE_LIMIT
    return max(STEP_FLOOR, STEP_MEDIANS * signs.step_seconds)


def is_live(facts: Facts, now: float) -> Verdict:
    """Tell whether the process makes progress; a restart helps where it does not."""
    if facts.state == worker_pb2.WORKER_STATE_FAILED:
        return Verdict(False, "FAILED: the model or the device does not work")
    silence = now - facts.loop_beat
    if silence > LOOP_LIMIT:
        return Verdict(False, f"STUCK: the event loop has been silent for {silence:.0f} s")
    limit = silence_limit(facts.signs, is_compiling=facts.is_compiling)
    silence = now - facts.signs.seen_at
    if limit is not None and silence > limit:
        return Verdict(
            False,
            f"STUCK: the compute thread has been silent for {silence:.0f} s of at most "
            f"{limit:.0f} s",
        )
    return Verdict(True, "live")


def is_ready(facts: Facts) -> Verdict:
    """Tell whether a request sent now would be served."""
    if facts.state == worker_pb2.WORKER_STATE_SERVING:
        return Verdict(True, "serving")
    return Verdict(False, f"not serving: {_name(facts.state)}")


def is_started(facts: Facts) -> Verdict:
    """Tell whether the model has been loaded."""
    if facts.state == worker_pb2.WORKER_STATE_STARTING:
        return Verdict(False, "the model is being loaded")
    return Verdict(True, _name(facts.state))


def _name(state: worker_pb2.WorkerState) -> str:
    return worker_pb2.WorkerState.Name(state).removeprefix("WORKER_STATE_")

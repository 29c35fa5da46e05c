"""What a worker knows of one generation."""

import collections
import dataclasses
import enum
import statistics
from typing import cast

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import estimates, identity, ring


class State(enum.IntEnum):
    """What callers see; the numbers are those of the wire."""

    QUEUED = worker_pb2.GENERATION_STATE_QUEUED
    RUNNING = worker_pb2.GENERATION_STATE_RUNNING
    PARKED = worker_pb2.GENERATION_STATE_PARKED
    SUCCEEDED = worker_pb2.GENERATION_STATE_SUCCEEDED
    FAILED = worker_pb2.GENERATION_STATE_FAILED
    CANCELLED = worker_pb2.GENERATION_STATE_CANCELLED
    HANDED_OVER = worker_pb2.GENERATION_STATE_HANDED_OVER

    @property
    def wire(self) -> worker_pb2.GenerationState:
        """The same state as the type of the wire, which at run time is an integer."""
        return cast("worker_pb2.GenerationState", int(self))


class Phase(enum.Enum):
    """Where a generation is on its way through the worker."""

    WAITING = enum.auto()
    """In the line."""
    ASSIGNED = enum.auto()
    """Given to the compute thread, which has not begun with it."""
    COMPUTING = enum.auto()
    PARKED = enum.auto()
    """On the compute thread, where it stands still because a caller wants it to."""
    ENCODING = enum.auto()
    """Off the compute thread."""
    ENDED = enum.auto()


_STATES = {
    Phase.WAITING: State.QUEUED,
    Phase.ASSIGNED: State.QUEUED,
    Phase.COMPUTING: State.RUNNING,
    Phase.PARKED: State.PARKED,
    Phase.ENCODING: State.RUNNING,
}

ON_THREAD = frozenset({Phase.ASSIGNED, Phase.COMPUTING, Phase.PARKED})
"""The phases in which the compute thread has a generation."""

END_STATES = {
    "succeeded": State.SUCCEEDED,
    "failed": State.FAILED,
    "cancelled": State.CANCELLED,
    "handed_over": State.HANDED_OVER,
}
"""The state that each terminal event stands for."""


@dataclasses.dataclass(kw_only=True, slots=True, eq=False)
class Generation:
    """One generation; changed by `lifecycle` alone."""

    key: identity.GenerationKey
    digest: str
    attempt: int
    priority: int
    deadline: float | None
    work: estimates.Work
    submitted_at: float
    events: ring.EventRing
    spec: worker_pb2.GenerationSpec | None
    """Let go of when it starts: it may hold images."""
    phase: Phase = Phase.WAITING
    end: State | None = None
    run: int = 0
    """The number of its run; 0 before it has one."""
    is_cancelling: bool = False
    is_paused: bool = False
    """A caller wants it to stand still."""
    is_stopping: bool = False
    """The drain wants it to stand still, to be saved, and to be handed over."""
    parked_at: int | None = None
    """Steps that were done where its run stands still."""
    drafted_at: int | None = None
    """Steps that were done where its state was taken last."""
    is_acknowledged: bool = False
    """Acknowledged before it ended: it is released as soon as it does."""
    started_at: float | None = None
    progress: worker_pb2.Progress | None = None
    progress_at: float | None = None
    step_times: collections.deque[float] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=32)
    )
    result: worker_pb2.Result | None = None
    error: errors.KubediffusionError | None = None

    @property
    def state(self) -> State:
        """What callers see."""
        if self.end is not None:
            return self.end
        if self.is_paused and self.phase is Phase.WAITING:
            return State.PARKED
        return _STATES[self.phase]

    @property
    def is_ended(self) -> bool:
        """Whether the terminal event has been emitted."""
        return self.phase is Phase.ENDED

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.progress.step if self.progress else 0

    @property
    def eta(self) -> float | None:
        """Seconds until the last step is done; None where unknown."""
        if self.progress is None or self.progress.eta_seconds < 0:
            return None
        return self.progress.eta_seconds

    def take_progress(
        self, *, step: int, total: int, timestep: float, seconds: float
    ) -> worker_pb2.Progress:
        """Note a completed step; the median of the newest steps tells how it goes on."""
        self.step_times.append(seconds)
        median = statistics.median(self.step_times)
        self.progress = worker_pb2.Progress(
            step=step,
            total=total,
            timestep=timestep,
            seconds_per_step=median,
            eta_seconds=(total - step) * median if total >= step > 0 else -1.0,
        )
        return self.progress

"""Everything that can happen to the generations of a worker, as told to `lifecycle`.

`now` is in seconds of one clock that never goes back; Unix time, so that events can carry
it. Runs are numbered by the state machine: a report of a run that has been given up is
recognised by its number.
"""

import dataclasses
from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import estimates, identity


@dataclass(frozen=True, kw_only=True, slots=True)
class Stimulus:
    """Something that happened, and when."""

    now: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLoaded(Stimulus):
    """The model is in memory: work may start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerBroke(Stimulus):
    """The model could not be loaded, or the device has failed for good."""

    error: errors.KubediffusionError


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted(Stimulus):
    """A caller hands over a generation, perhaps one that is known already."""

    key: identity.GenerationKey
    caller: identity.Caller
    spec: worker_pb2.GenerationSpec
    digest: str
    """Of the specification; tells the same request from another one under its id."""
    attempt: int = 1
    priority: int = 0
    deadline: float | None = None
    """On the clock of `now`."""
    work: estimates.Work = dataclasses.field(default_factory=estimates.Work)
    checkpoint: worker_pb2.CheckpointInfo | None = None
    """What it shall go on from; None: it begins anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted(Stimulus):
    """The compute thread has begun with a run."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepped(Stimulus):
    """A run has completed denoising steps."""

    run: int
    step: int
    total: int
    """0 where unknown."""
    timestep: float
    seconds: float
    """Of the newest step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed(Stimulus):
    """A run has left the compute thread with its output, which has to be encoded."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded(Stimulus):
    """The bytes of a result are there."""

    run: int
    result: worker_pb2.Result


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFailed(Stimulus):
    """A run, or the encoding of its output, has raised."""

    run: int
    error: errors.KubediffusionError


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCancelled(Stimulus):
    """A run has left the pipeline because it was told to."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeFreed(Stimulus):
    """The compute thread can take another run in place of this one."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelAsked(Stimulus):
    """A caller wants a generation to end."""

    key: identity.GenerationKey
    caller: identity.Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledged(Stimulus):
    """A caller needs nothing more of a generation."""

    key: identity.GenerationKey
    caller: identity.Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchOpened(Stimulus):
    """A caller follows events; an engine that does so holds its lease."""

    watch: int
    caller: identity.Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchClosed(Stimulus):
    """A watch is over, whatever the reason."""

    watch: int
    engine_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseAsked(Stimulus):
    """A caller wants a generation to stand still."""

    key: identity.GenerationKey
    caller: identity.Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpauseAsked(Stimulus):
    """A caller wants a generation to go on."""

    key: identity.GenerationKey
    caller: identity.Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Parked(Stimulus):
    """A run stands still at a boundary, or was not begun, because it was told to."""

    run: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointAsked(Stimulus):
    """A caller wants the state of a generation to be saved."""

    key: identity.GenerationKey
    caller: identity.Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Captured(Stimulus):
    """The state of a run was taken; it is on its way to be stored."""

    run: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NotSaved(Stimulus):
    """The state of a run could not be taken, or not be turned into a checkpoint."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored(Stimulus):
    """The bytes of a checkpoint are there."""

    run: int
    info: worker_pb2.CheckpointInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed(Stimulus):
    """A run has caught up with the checkpoint that it goes on from."""

    run: int
    step: int
    """0: it could not, and computes everything from its seed."""
    exactness: worker_pb2.Exactness


@dataclass(frozen=True, kw_only=True, slots=True)
class Previewed(Stimulus):
    """A small picture of what a run is about to make is there, as a file."""

    run: int
    preview: worker_pb2.PreviewEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class DrainAsked(Stimulus):
    """The worker has to be empty at a given time, or earlier than said before."""

    until: float
    policy: worker_pb2.DrainPolicy = worker_pb2.DRAIN_POLICY_FINISH_THEN_CHECKPOINT
    is_exit: bool = False
    """Whether the worker ends then, so that there is no way back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UndrainAsked(Stimulus):
    """The worker shall serve again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticked(Stimulus):
    """Time has passed: deadlines, leases, ages."""


AnyStimulus = (
    ModelLoaded
    | WorkerBroke
    | Submitted
    | RunStarted
    | Stepped
    | Computed
    | Encoded
    | RunFailed
    | RunCancelled
    | ComputeFreed
    | CancelAsked
    | Acknowledged
    | WatchOpened
    | WatchClosed
    | PauseAsked
    | UnpauseAsked
    | Parked
    | CheckpointAsked
    | Captured
    | NotSaved
    | Stored
    | Resumed
    | Previewed
    | DrainAsked
    | UndrainAsked
    | Ticked
)

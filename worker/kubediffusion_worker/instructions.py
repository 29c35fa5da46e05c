"""Everything that `lifecycle` can tell the runtime to do."""

from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import identity


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Run a generation on the compute thread."""

    key: identity.GenerationKey
    run: int
    spec: worker_pb2.GenerationSpec
    priority: int
    deadline: float | None
    checkpoint: worker_pb2.CheckpointInfo | None
    """The one to go on from, of those that are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Park:
    """Let a run stand still at its next boundary."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpark:
    """Let a run go on."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """Take the state of a run at its next boundary, or where it stands still."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepCheckpoint:
    """Keep the bytes of a checkpoint; without this instruction they are dropped."""

    key: identity.GenerationKey
    step: int
    run: int
    """Whose it is; 0: it came with the request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DropCheckpoint:
    """Drop the bytes of a checkpoint that was kept."""

    key: identity.GenerationKey
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RaiseCancel:
    """Make a run leave the pipeline at its next seam."""

    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Encode:
    """Turn the output of a run into bytes; without this instruction the output is dropped."""

    key: identity.GenerationKey
    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Keep the bytes of a result for its readers; without this instruction they are dropped."""

    key: identity.GenerationKey
    run: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Emit:
    """Tell watchers that a generation has a new event, which its ring holds."""

    key: identity.GenerationKey
    event: worker_pb2.GenerationEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Free:
    """Drop all that is kept of a generation."""

    key: identity.GenerationKey
    is_evicted: bool
    """Dropped for room or age, not because it was acknowledged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndWatch:
    """End a watch with an error."""

    watch: int
    error: errors.KubediffusionError


@dataclass(frozen=True, kw_only=True, slots=True)
class Refuse:
    """Answer the stimulus with an error; it has changed nothing but what it says."""

    error: errors.KubediffusionError


Act = (
    Start
    | Park
    | Unpark
    | Capture
    | KeepCheckpoint
    | DropCheckpoint
    | RaiseCancel
    | Encode
    | Keep
    | Emit
    | Free
    | EndWatch
)
"""What is to be done."""

AnyInstruction = Act | Refuse

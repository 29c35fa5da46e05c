"""What a user hears of a generation while it lives."""

from __future__ import annotations

import collections
import datetime
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kubediffusion_proto.v1 import worker_pb2

if TYPE_CHECKING:
    import PIL.Image

    from kubediffusion import _output
    from kubediffusion_wire import errors

MAX_KEPT = 512
"""Events of one generation that are kept for those who begin to listen later."""


class GenerationState(enum.Enum):
    """Where a generation stands, as far as the engine knows."""

    PENDING = "pending"
    """No worker has it yet."""
    QUEUED = "queued"
    RUNNING = "running"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more will happen."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {GenerationState.SUCCEEDED, GenerationState.FAILED, GenerationState.CANCELLED}
)
STATES_BY_EVENT: Mapping[str, GenerationState] = {
    "queued": GenerationState.QUEUED,
    "started": GenerationState.RUNNING,
    "progress": GenerationState.RUNNING,
    "parked": GenerationState.PARKED,
    "unpaused": GenerationState.RUNNING,
    "resumed": GenerationState.RUNNING,
}
STATES_BY_WIRE: Mapping[int, GenerationState] = {
    worker_pb2.GENERATION_STATE_QUEUED: GenerationState.QUEUED,
    worker_pb2.GENERATION_STATE_RUNNING: GenerationState.RUNNING,
    worker_pb2.GENERATION_STATE_PARKED: GenerationState.PARKED,
}


_MINOR = frozenset({"progress", "preview"})
"""Kinds of events that mean little once there is a newer one."""


EXACTNESS = {
    worker_pb2.EXACTNESS_EXACT: "exact",
    worker_pb2.EXACTNESS_CLOSE: "close",
    worker_pb2.EXACTNESS_RESTARTED: "restarted",
}


class Progress(NamedTuple):
    """How far a generation is."""

    step: int
    """Steps that are done."""
    total: int
    """0 where the pipeline does not tell."""
    seconds_per_step: float
    eta_seconds: float | None
    """Seconds until the end of the denoising loop; None where unknown."""

    @property
    def fraction(self) -> float:
        """From 0 to 1; 0 where the total is unknown."""
        return min(1.0, self.step / self.total) if self.total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationEvent:
    """Something that happened to a generation."""

    kind: str
    """"queued", "started", "progress", "preview", "checkpointed" (its state after `step` is
    safe), "parked" (by `pause`), "unpaused", "moved" (its worker is lost or leaves, another one
    takes over), "waiting" (no worker will take it as things are), "resumed" (there, from
    `step`), "checkpoint_lost" (it goes on, but this engine cannot keep its newest state), "gap"
    (events before this one are lost), and last "succeeded", "failed" or "cancelled"."""
    request_id: str
    sequence: int
    """Of the worker's events of this generation, from 1; 0 for the engine's own."""
    attempt: int
    time: datetime.datetime | None
    """Of the worker's clock."""
    worker: str
    coalesced: int = 0
    """Progress and preview events left out right before this one, because newer ones replaced
    them."""
    progress: Progress | None = None
    """Of "progress"."""
    position: int = 0
    """Place in the worker's queue, from 0; of "queued"."""
    wait_seconds: float = 0.0
    """Estimated; of "queued"."""
    step: int = 0
    """Of "progress", "preview", "checkpointed", "parked", "resumed" and "cancelled"."""
    exactness: str = ""
    """Of "resumed": "exact" where the result will have the bits of an undisturbed run, "close"
    where it may differ a little, "restarted" where everything is computed anew."""
    checkpoint_bytes: int = 0
    """Of "checkpointed": its size."""
    reason: str = ""
    """Of "waiting" and "checkpoint_lost": why, in words."""
    preview_jpeg: bytes = b""
    """Of "preview": a JPEG file."""
    output: _output.OmniRequestOutput | None = None
    """Of "succeeded"."""
    error: errors.KubediffusionError | None = None
    """Of "failed" and "cancelled"."""

    @property
    def is_terminal(self) -> bool:
        """Whether it is the last event."""
        return self.kind in ("succeeded", "failed", "cancelled")

    @property
    def preview(self) -> PIL.Image.Image | None:
        """The preview as a Pillow image; None unless the kind is "preview"."""
        if not self.preview_jpeg:
            return None
        from kubediffusion_wire import images  # Late: few look at previews.

        return images.ImageData(self.preview_jpeg).to_pil()


class Note(NamedTuple):
    """A kept event: as it came, and where from."""

    number: int
    """Grows by one with every event of the generation in this process."""
    kind: str
    worker: str
    message: worker_pb2.GenerationEvent | None
    """None for the engine's own."""
    coalesced: int
    reason: str = ""


class EventLog:
    """The newest events of one generation, bounded; progress gives way to newer progress."""

    def __init__(self) -> None:
        self._notes: collections.deque[Note] = collections.deque()
        self._next = 1

    def __len__(self) -> int:
        return len(self._notes)

    def append(
        self,
        kind: str,
        worker: str,
        message: worker_pb2.GenerationEvent | None = None,
        reason: str = "",
    ) -> None:
        """Keep an event."""
        coalesced = message.coalesced if message is not None else 0
        if len(self._notes) >= MAX_KEPT:
            coalesced += self._make_room()
        self._notes.append(Note(self._next, kind, worker, message, coalesced, reason))
        self._next += 1

    def after(self, number: int) -> Note | None:
        """Return the first kept event with a higher number; None where there is none yet."""
        if not self._notes or self._notes[-1].number <= number:
            return None
        if self._notes[0].number > number:
            return self._notes[0]
        # Listeners are near the end, as a rule.
        found = self._notes[-1]
        for note in reversed(self._notes):
            if note.number <= number:
                break
            found = note
        return found

    def compact(self) -> None:
        """Let progress and previews give way to the next of their kind, and count them."""
        kept: collections.deque[Note] = collections.deque()
        for note in self._notes:
            if kept and note.kind in _MINOR and kept[-1].kind == note.kind:
                last = kept.pop()
                note = note._replace(coalesced=note.coalesced + last.coalesced + 1)
            kept.append(note)
        self._notes = kept

    def _make_room(self) -> int:
        """Drop the newest progress or preview, else the oldest event; return what it stood for."""
        if self._notes[-1].kind in _MINOR:
            return 1 + self._notes.pop().coalesced
        for index, note in enumerate(self._notes):
            if note.kind in _MINOR or note.kind == "queued":
                del self._notes[index]
                return 0
        self._notes.popleft()
        return 0


def from_note(request_id: str, attempt: int, note: Note) -> GenerationEvent:
    """Return an event for the user; that of a terminal one lacks output and error."""
    message = note.message
    if message is None:
        return GenerationEvent(
            kind=note.kind,
            request_id=request_id,
            sequence=0,
            attempt=attempt,
            time=None,
            worker=note.worker,
            reason=note.reason,
        )
    return GenerationEvent(
        kind=note.kind,
        request_id=request_id,
        sequence=message.sequence,
        attempt=message.attempt,
        time=message.time.ToDatetime(datetime.UTC) if message.HasField("time") else None,
        worker=note.worker,
        coalesced=note.coalesced,
        progress=to_progress(message.progress) if note.kind == "progress" else None,
        position=message.queued.position,
        wait_seconds=message.queued.wait_seconds,
        step=_step(message),
        exactness=EXACTNESS.get(message.resumed.exactness, ""),
        checkpoint_bytes=message.checkpointed.size,
        preview_jpeg=message.preview.image,
    )


def to_progress(message: worker_pb2.Progress) -> Progress:
    """Return a worker's progress for the user."""
    return Progress(
        message.step,
        message.total,
        message.seconds_per_step,
        message.eta_seconds if message.eta_seconds >= 0 else None,
    )


def _step(message: worker_pb2.GenerationEvent) -> int:
    match message.WhichOneof("event"):
        case "progress":
            return message.progress.step
        case "preview":
            return message.preview.step
        case "checkpointed":
            return message.checkpointed.step
        case "parked":
            return message.parked.step
        case "resumed":
            return message.resumed.from_step
        case "cancelled":
            return message.cancelled.step
        case _:
            return 0

"""One request in the engine's memory. Belongs to the event loop, but for plain reads."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, NamedTuple, cast

from kubediffusion import (
    _changes,
    _events,
    _instructions,
    _placement,
    _stimuli,
    _tables,
    _tracker,
)
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

if TYPE_CHECKING:
    from kubediffusion import _output

_ENDINGS = {
    _stimuli.Ending.SUCCEEDED: _events.GenerationState.SUCCEEDED,
    _stimuli.Ending.FAILED: _events.GenerationState.FAILED,
    _stimuli.Ending.CANCELLED: _events.GenerationState.CANCELLED,
}


class Order(NamedTuple):
    """A checked request, ready to be taken."""

    request_id: str
    spec: worker_pb2.GenerationSpec
    digest: str
    size: int
    """Bytes of the specification."""
    priority: int = 0
    deadline: float | None = None
    """Unix time."""
    min_exactness: worker_pb2.Exactness = worker_pb2.EXACTNESS_UNSPECIFIED
    output_type: str = "pil"
    is_anonymous: bool = False
    """Whether the engine drew the id, so that nobody else can ask for it."""


class Record:
    """What the engine knows of one request."""

    def __init__(
        self, request_id: str, *, tracker: _tracker.Tracker, digest: str = "", submitted: float
    ) -> None:
        self.request_id = request_id
        self.digest = digest
        """Empty where it is not known."""
        self.submitted = submitted
        self.tracker = tracker
        self.spec: worker_pb2.GenerationSpec | None = None
        self.size = 0
        self.demand = _placement.Demand()
        self.priority = 0
        self.deadline: float | None = None
        self.min_exactness: worker_pb2.Exactness = worker_pb2.EXACTNESS_UNSPECIFIED
        self.output_type = "pil"
        self.is_anonymous = False
        self.checkpoints: tuple[_changes.Checkpoint, ...] = ()
        """Those that are kept, newest first."""
        self.resuming: _changes.Checkpoint | None = None
        """What the current attempt was told to go on from."""
        self.heard = 0.0
        """When the current attempt last gave a sign of life, by `time.monotonic`."""
        self.step_seconds = 0.0
        """Of the newest step that was told."""
        self.waiting_for = ""
        """Why no worker takes it, in words; empty where one does or soon will."""
        self.log = _events.EventLog()
        self.state = _events.GenerationState.PENDING
        self.progress: _events.Progress | None = None
        self.worker = ""
        """Name of the worker that has it, or had it last."""
        self.sequences: dict[str, int] = {}
        """The last event that was seen, by incarnation."""
        self.announced: dict[str, worker_pb2.Result] = {}
        """Headers of results that wait on workers, by incarnation."""
        self.header: worker_pb2.Result | None = None
        """Of the result that was accepted."""
        self.output: _output.OmniRequestOutput | None = None
        """None while there is none, and where it is kept in a file only."""
        self.error: errors.KubediffusionError | None = None
        self.last_event: worker_pb2.GenerationEvent | None = None
        """The worker's own terminal event."""
        self.is_published = False
        self.is_delivered = False
        """Whether somebody has been given the outcome."""
        self.is_kept = False
        """Whether the outcome outlives this process."""
        self.final_seat: _stimuli.Seat | None = None
        """Where it ended."""
        self._listeners: list[asyncio.Future[None]] = []

    @classmethod
    def of_order(cls, order: Order, *, now: float, max_attempts: int) -> Record:
        """Make the record of a new request."""
        tracker = _tracker.Tracker(max_attempts=max_attempts)
        record = cls(order.request_id, tracker=tracker, digest=order.digest, submitted=now)
        record.priority = order.priority
        record.deadline = order.deadline
        record.min_exactness = order.min_exactness
        record.is_anonymous = order.is_anonymous
        record.claim(order)
        return record

    @classmethod
    def of_entry(cls, entry: _changes.Entry, *, max_attempts: int) -> Record:
        """Make the record of a journaled request."""
        tracker = _tracker.Tracker(
            max_attempts=max_attempts,
            attempt=entry.attempt,
            strikes=entry.strikes,
            is_cancelling=entry.is_cancelling,
            can_resubmit=entry.spec is not None,
            deaths=tuple(_instructions.Death(*each) for each in json.loads(entry.deaths)),
            is_paused=entry.is_paused,
        )
        record = cls(
            entry.request_id, tracker=tracker, digest=entry.digest, submitted=entry.submitted
        )
        record.priority = entry.priority
        record.deadline = entry.deadline
        record.min_exactness = cast("worker_pb2.Exactness", entry.min_exactness)
        record.worker = entry.worker
        if entry.spec is not None:
            record._set_spec(worker_pb2.GenerationSpec.FromString(entry.spec))
        if entry.ending is not None:
            record._restore_ending(entry)
        elif entry.incarnation:
            tracker.phase = _tracker.Phase.RECALLED
            tracker.seat = _stimuli.Seat(entry.worker, entry.incarnation)
            tracker.is_accepted = entry.is_accepted
        return record

    @classmethod
    def of_generation(
        cls, generation: worker_pb2.Generation, seat: _stimuli.Seat, *, max_attempts: int
    ) -> Record:
        """Make the record of a generation that a worker has and nobody here knows."""
        tracker = _tracker.Tracker(
            max_attempts=max_attempts,
            attempt=max(1, generation.attempt),
            phase=_tracker.Phase.RECALLED,
            seat=seat,
            is_accepted=True,
            can_resubmit=False,
        )
        record = cls(
            generation.request_id,
            tracker=tracker,
            digest=generation.spec_digest,
            submitted=generation.submit_time.ToNanoseconds() / 1e9,
        )
        record.priority = generation.priority
        record.worker = seat.worker
        return record

    def claim(self, order: Order) -> None:
        """Learn from an order what only its sender knows."""
        self.output_type = order.output_type
        self.tracker.can_resubmit = True
        self.digest = self.digest or order.digest
        self._set_spec(order.spec)

    def entry(self) -> _changes.Entry:
        """Return what the journal is to know of a record that has not ended."""
        seat = self.tracker.seat or _stimuli.Seat("", "")
        return _changes.Entry(
            request_id=self.request_id,
            digest=self.digest,
            spec=None if self.spec is None else self.spec.SerializeToString(deterministic=True),
            priority=self.priority,
            deadline=self.deadline,
            min_exactness=self.min_exactness,
            submitted=self.submitted,
            attempt=self.tracker.attempt,
            worker=seat.worker,
            incarnation=seat.incarnation,
            is_accepted=self.tracker.is_accepted,
            is_paused=self.tracker.is_paused,
        )

    @property
    def prompt(self) -> str:
        """Empty where it is not known."""
        return self.spec.prompt if self.spec is not None else ""

    @property
    def is_ended(self) -> bool:
        """Whether the tracker has nothing more to do."""
        return self.tracker.phase is _tracker.Phase.ENDED

    def set_demand(self) -> None:
        """Let the checkpoint that there is decide which workers fit best."""
        checkpoint = self.checkpoints[0] if self.checkpoints else None
        home = "" if checkpoint is None else checkpoint.home
        self.demand = self.demand._replace(
            fingerprint=home,
            worth=0.0 if checkpoint is None else checkpoint.step * self.step_seconds,
            is_strict=bool(home) and self.min_exactness == worker_pb2.EXACTNESS_EXACT,
        )

    def note(
        self,
        kind: str,
        worker: str,
        message: worker_pb2.GenerationEvent | None = None,
        *,
        reason: str = "",
    ) -> None:
        """Keep an event and tell whoever listens."""
        self.log.append(kind, worker, message, reason)
        self.wake()

    def publish(self, ending: _stimuli.Ending, error: errors.KubediffusionError | None) -> None:
        """Tell whoever listens that the request has ended."""
        self.state = _ENDINGS[ending]
        self.error = error
        self.is_published = True
        if self.spec is not None and self.size > _tables.MAX_KEPT_SPEC_BYTES:
            self.spec = worker_pb2.GenerationSpec(prompt=self.prompt)
        self.note(ending.value, self.worker, self.last_event)

    def wake(self) -> None:
        """Let all that wait for a change look again."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            if not listener.done():
                listener.set_result(None)

    async def changed(self) -> None:
        """Wait for the next change."""
        listener: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners.append(listener)
        await listener

    def _set_spec(self, spec: worker_pb2.GenerationSpec) -> None:
        self.spec = spec
        self.size = spec.ByteSize()
        self.demand = _placement.Demand(spec.model, tuple(use.name for use in spec.adapters))
        kind = spec.output.type
        if kind == worker_pb2.OUTPUT_TYPE_LATENT:
            self.output_type = "latent"
        elif kind == worker_pb2.OUTPUT_TYPE_FLOAT and self.output_type == "pil":
            self.output_type = "np"

    def _restore_ending(self, entry: _changes.Entry) -> None:
        ending = _stimuli.Ending(entry.ending)
        self.tracker.phase = _tracker.Phase.ENDED
        if entry.result is not None:
            self.header = worker_pb2.Result.FromString(entry.result)
        error: errors.KubediffusionError | None = None
        if entry.error is not None:
            error = errors.from_message(worker_pb2.Error.FromString(entry.error))
        self.publish(ending, error)

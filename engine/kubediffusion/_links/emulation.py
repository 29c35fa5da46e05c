"""A worker's memory of generations, for links whose other end has none.

Keeps what the wire promises (idempotent submission, replayable events, results until they
are acknowledged, fencing by epoch) as far as that is possible in this process.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from google.protobuf import message

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers

Key = tuple[str, str]
"""Engine id and request id."""

MAX_UNFINISHED = 1000
"""Generations that wait or run, over all engines."""

MAX_TOMBSTONES = 10_000
"""Acknowledged generations that are remembered, so that they are not run again."""

_FINAL = {
    "succeeded": worker_pb2.GENERATION_STATE_SUCCEEDED,
    "failed": worker_pb2.GENERATION_STATE_FAILED,
    "cancelled": worker_pb2.GENERATION_STATE_CANCELLED,
}


@dataclass(slots=True, kw_only=True)
class Record:
    """One generation."""

    submission: worker_pb2.SubmitGenerationRequest
    generation: worker_pb2.Generation
    events: list[worker_pb2.GenerationEvent] = field(default_factory=list)
    data: bytes = b""

    @property
    def is_queued(self) -> bool:
        """Whether it waits."""
        return self.generation.state == worker_pb2.GENERATION_STATE_QUEUED

    @property
    def is_finished(self) -> bool:
        """Whether its terminal event has been told."""
        return self.generation.state in _FINAL.values()


class Emulation:
    """The generations of one link; belongs to the engine's loop."""

    def __init__(self) -> None:
        self.incarnation = identifiers.new_incarnation()
        self._records: dict[Key, Record] = {}
        self._tombstones: collections.OrderedDict[Key, None] = collections.OrderedDict()
        self._epochs: dict[str, tuple[int, str]] = {}
        self._watchers: set[asyncio.Event] = set()
        self._is_closed = False

    def close(self) -> None:
        """End all watches."""
        self._is_closed = True
        self._wake()

    def epoch(self, engine_id: str) -> int:
        """Return the highest epoch seen of an engine; 0 where none was."""
        return self._epochs.get(engine_id, (0, ""))[0]

    def load(self) -> worker_pb2.WorkerLoad:
        """Return what waits and runs."""
        queued = sum(record.is_queued for record in self._records.values())
        unfinished = sum(not record.is_finished for record in self._records.values())
        return worker_pb2.WorkerLoad(
            slots=1,
            queued=queued,
            running=unfinished - queued,
            retained_bytes=sum(len(record.data) for record in self._records.values()),
        )

    def fence(self, caller: worker_pb2.Caller) -> None:
        """Refuse a write of an engine that has been replaced.

        Raises:
            StaleEpochError: A newer start of the engine has been seen.
        """
        if caller.role != worker_pb2.ROLE_ENGINE:
            return
        mine, newest = (caller.epoch, caller.instance), self._epochs.get(caller.engine_id, (0, ""))
        if mine < newest:
            raise errors.StaleEpochError(
                f"engine {caller.engine_id!r} was started anew with epoch {newest[0]}; "
                f"found {caller.epoch}"
            )
        self._epochs[caller.engine_id] = mine

    def submit(self, submission: worker_pb2.SubmitGenerationRequest) -> tuple[Record, bool]:
        """Return the generation's record, and whether it is new.

        Raises:
            RequestConflictError: The id stands for other content.
            AlreadyAcknowledgedError: It has been here before.
            QueueFullError: Too many are unfinished.
            StaleEpochError: See `fence`.
        """
        self.fence(submission.caller)
        key = (submission.caller.engine_id, submission.request_id)
        digest = identifiers.spec_digest(submission.spec)
        if key in self._tombstones:
            raise errors.AlreadyAcknowledgedError(f"{key[1]!r} was acknowledged before")
        known = self._records.get(key)
        if known is not None:
            if known.generation.spec_digest != digest:
                raise errors.RequestConflictError(f"{key[1]!r} stands for other content here")
            return known, False
        if sum(not record.is_finished for record in self._records.values()) >= MAX_UNFINISHED:
            raise errors.QueueFullError(f"{MAX_UNFINISHED} generations wait", retry_delay=1.0)
        return self._add(key, submission, digest), True

    def next_queued(self) -> Record | None:
        """Return what shall run next: the highest priority, then the oldest."""
        queued = [record for record in self._records.values() if record.is_queued]
        return max(queued, key=lambda record: record.submission.priority, default=None)

    def find(self, key: Key) -> Record:
        """Return a generation's record.

        Raises:
            GenerationNotFoundError: There is none.
        """
        if key not in self._records:
            raise errors.GenerationNotFoundError(f"no generation {key[1]!r} is here")
        return self._records[key]

    def records(self, engine_id: str = "") -> Iterator[Record]:
        """Yield all generations, or those of one engine."""
        for key, record in list(self._records.items()):
            if engine_id in ("", key[0]):
                yield record

    def forget(self, key: Key) -> bool:
        """Release a finished generation; returns whether it was here.

        Raises:
            ResultNotReadyError: It is not finished.
        """
        record = self._records.get(key)
        if record is None:
            return False
        if not record.is_finished:
            raise errors.ResultNotReadyError(f"generation {key[1]!r} is not finished")
        del self._records[key]
        self._tombstones[key] = None
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        return True

    def start(self, record: Record) -> None:
        """Take note that a generation runs."""
        record.generation.state = worker_pb2.GENERATION_STATE_RUNNING
        self._tell(record, "started", worker_pb2.StartedEvent())

    def succeed(self, record: Record, result: worker_pb2.Result, data: bytes) -> None:
        """Take note of a result."""
        record.data = data
        record.generation.result.CopyFrom(result)
        self._tell(record, "succeeded", worker_pb2.SucceededEvent(result=result))

    def fail(self, record: Record, error: errors.KubediffusionError) -> None:
        """Take note of a failure."""
        told = errors.to_message(error)
        record.generation.error.CopyFrom(told)
        self._tell(record, "failed", worker_pb2.FailedEvent(error=told))

    def cancel(self, record: Record) -> None:
        """Take note that a queued generation will not run."""
        self._tell(record, "cancelled", worker_pb2.CancelledEvent())

    async def watch(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncIterator[list[worker_pb2.GenerationEvent]]:
        """Yield past and coming events; an empty list once the past is told."""
        seen = dict(request.after_sequences)
        news = asyncio.Event()
        self._watchers.add(news)
        is_live = False
        try:
            while not self._is_closed:
                news.clear()
                events = list(self._unseen(request, seen))
                if events or not is_live:
                    is_live = True
                    yield events
                if request.until_terminal and self._are_finished(request):
                    return
                await news.wait()
        finally:
            self._watchers.discard(news)

    def _unseen(
        self, request: worker_pb2.WatchGenerationsRequest, seen: dict[str, int]
    ) -> Iterator[worker_pb2.GenerationEvent]:
        for record in self.records(request.caller.engine_id):
            name = record.generation.request_id
            if request.request_ids and name not in request.request_ids:
                continue
            for event in record.events[seen.get(name, 0) :]:
                seen[name] = event.sequence
                yield event

    def _are_finished(self, request: worker_pb2.WatchGenerationsRequest) -> bool:
        engine_id = request.caller.engine_id
        found = (self._records.get((engine_id, name)) for name in request.request_ids)
        return all(record is None or record.is_finished for record in found)

    def _add(
        self, key: Key, submission: worker_pb2.SubmitGenerationRequest, digest: str
    ) -> Record:
        generation = worker_pb2.Generation(
            engine_id=key[0],
            request_id=key[1],
            state=worker_pb2.GENERATION_STATE_QUEUED,
            spec_digest=digest,
            attempt=submission.attempt,
            priority=submission.priority,
        )
        generation.submit_time.GetCurrentTime()
        record = Record(submission=submission, generation=generation)
        self._records[key] = record
        self._tell(record, "queued", worker_pb2.QueuedEvent())
        return record

    def _tell(self, record: Record, kind: str, content: message.Message) -> None:
        generation = record.generation
        generation.state = _FINAL.get(kind, generation.state)
        generation.last_sequence += 1
        event = worker_pb2.GenerationEvent(
            engine_id=generation.engine_id,
            request_id=generation.request_id,
            sequence=generation.last_sequence,
            attempt=generation.attempt,
        )
        getattr(event, kind).CopyFrom(content)
        getattr(event, kind).SetInParent()  # Empty messages would not be set by a copy.
        event.time.GetCurrentTime()
        record.events.append(event)
        self._wake()

    def _wake(self) -> None:
        for news in self._watchers:
            news.set()

"""The events of one generation: a bounded history that many readers pull from.

A reader keeps the sequence number that it has; what it is given next depends on that
number, on how often it wants progress, and on the history alone. Nothing is stored per
reader, so a slow one costs nothing: it finds older progress replaced by newer, and, when
it stays away for longer than the history reaches back, a gap.
"""

import bisect
import collections
import math
import operator
from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2

_sequence = operator.attrgetter("sequence")

TERMINAL_EVENTS = frozenset({"succeeded", "failed", "cancelled", "handed_over"})
"""Names of the events that end a generation."""

_REPLACEABLE = frozenset({"progress", "preview"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RingLimits:
    """Bounds of the history of one generation."""

    max_events: int = 256
    """Enough for a usual generation from start to end."""
    max_bytes: int = 1_000_000
    """Bounds what preview images take."""


class EventRing:
    """The newest events of a generation, numbered without holes."""

    def __init__(self, limits: RingLimits, *, last_sequence: int = 0) -> None:
        """Begin after a number that the same generation has used up before."""
        self._limits = limits
        self._events: collections.deque[worker_pb2.GenerationEvent] = collections.deque()
        self._bytes = 0
        self._last_sequence = last_sequence

    @property
    def last_sequence(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._last_sequence

    @property
    def first_sequence(self) -> int:
        """The number of the oldest event that is kept."""
        return self._last_sequence - len(self._events) + 1

    @property
    def newest(self) -> worker_pb2.GenerationEvent | None:
        """The newest event, if there is one."""
        return self._events[-1] if self._events else None

    def append(self, event: worker_pb2.GenerationEvent) -> None:
        """Number an event and keep it; the oldest leave when there is no room."""
        self._last_sequence += 1
        event.sequence = self._last_sequence
        self._events.append(event)
        self._bytes += event.ByteSize()
        limits = self._limits
        while len(self._events) > limits.max_events or (
            self._bytes > limits.max_bytes and len(self._events) > 1
        ):
            self._bytes -= self._events.popleft().ByteSize()

    def after(self, sequence: int) -> list[worker_pb2.GenerationEvent]:
        """Return the kept events that are newer than a sequence number."""
        start = bisect.bisect_right(self._events, sequence, key=_sequence)
        return [self._events[index] for index in range(start, len(self._events))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """How far one reader has come with one generation, and what it wants."""

    sequence: int = 0
    """The newest event that it has."""
    progress_at: float = -math.inf
    """When it was last given progress."""
    min_interval: float = 0.1
    """Seconds between two progress events; 0 stands for every one."""
    wants_previews: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Pull:
    """What a reader is given."""

    events: tuple[worker_pb2.GenerationEvent, ...]
    reader: Reader
    """The reader after it has taken the events."""
    due: float | None
    """When progress that is held back may be given; None where none is."""


def pull(events: EventRing, reader: Reader, now: float) -> Pull:
    """Choose what a reader is given next.

    State changes are always given at once. Progress and previews are replaced by newer
    ones, and wait until the reader's interval is over.
    """
    fresh = events.after(reader.sequence)
    given: list[worker_pb2.GenerationEvent] = []
    sequence = reader.sequence
    if fresh and events.first_sequence > sequence + 1:
        given.append(gap(fresh[0]))
        sequence = fresh[0].sequence - 1
    chosen, is_held = _choose(fresh, reader, now)
    for event in chosen:
        given.append(_with_coalesced(event, event.sequence - sequence - 1))
        sequence = event.sequence
    has_progress = any(is_replaceable(event) for event in chosen)
    progress_at = now if has_progress else reader.progress_at
    return Pull(
        events=tuple(given),
        reader=Reader(
            sequence=sequence,
            progress_at=progress_at,
            min_interval=reader.min_interval,
            wants_previews=reader.wants_previews,
        ),
        due=progress_at + reader.min_interval if is_held else None,
    )


def is_replaceable(event: worker_pb2.GenerationEvent) -> bool:
    """Whether a newer event of its kind makes this one worthless."""
    return event.WhichOneof("event") in _REPLACEABLE


def is_terminal(event: worker_pb2.GenerationEvent) -> bool:
    """Whether the event ends its generation."""
    return event.WhichOneof("event") in TERMINAL_EVENTS


def gap(first: worker_pb2.GenerationEvent) -> worker_pb2.GenerationEvent:
    """Mark that the events before this one are lost."""
    return worker_pb2.GenerationEvent(
        engine_id=first.engine_id,
        request_id=first.request_id,
        sequence=first.sequence - 1,
        time=first.time,
        attempt=first.attempt,
        gap=worker_pb2.GapEvent(first_available_sequence=first.sequence),
    )


def _choose(
    fresh: list[worker_pb2.GenerationEvent], reader: Reader, now: float
) -> tuple[list[worker_pb2.GenerationEvent], bool]:
    """Select the events to give, and tell whether newer progress is held back."""
    if not reader.min_interval:
        return [event for event in fresh if _is_wanted(event, reader)], False
    is_allowed = now >= reader.progress_at + reader.min_interval
    newest: dict[str, int] = {
        event.WhichOneof("event") or "": event.sequence
        for event in fresh
        if is_replaceable(event) and _is_wanted(event, reader)
    }
    keep = set(newest.values()) if is_allowed else set()
    chosen = [event for event in fresh if not is_replaceable(event) or event.sequence in keep]
    end = chosen[-1].sequence if chosen else reader.sequence
    return chosen, any(sequence > end for sequence in newest.values())


def _is_wanted(event: worker_pb2.GenerationEvent, reader: Reader) -> bool:
    return reader.wants_previews or not event.HasField("preview")


def _with_coalesced(event: worker_pb2.GenerationEvent, count: int) -> worker_pb2.GenerationEvent:
    if not count:
        return event  # Shared by all readers, and never changed.
    marked = worker_pb2.GenerationEvent()
    marked.CopyFrom(event)
    marked.coalesced = count
    return marked

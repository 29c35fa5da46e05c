"""What is new about a generation, in the few words that a display needs."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from kubediffusion.cli import text
from kubediffusion_proto.v1 import worker_pb2

if TYPE_CHECKING:
    from kubediffusion import _events


class Kind(enum.Enum):
    """What happened."""

    QUEUED = "queued"
    STARTED = "started"
    STEP = "step"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SAVED = "saved"
    """A checkpoint is kept; `step` says of when."""
    NOTE = "note"


TERMINAL = frozenset({Kind.SUCCEEDED, Kind.FAILED, Kind.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """One thing that happened to a generation."""

    request_id: str
    kind: Kind
    step: int = 0
    total: int = 0
    """0 where nobody knows."""
    eta_seconds: float | None = None
    detail: str = ""
    """Where it runs, why it failed."""

    @property
    def is_last(self) -> bool:
        """Whether nothing comes after it."""
        return self.kind in TERMINAL


def of_event(event: worker_pb2.GenerationEvent) -> News:
    """Read an event as a worker sends it."""
    name = event.WhichOneof("event") or "unknown"
    if name == "progress":
        progress = event.progress
        return News(
            request_id=event.request_id,
            kind=Kind.STEP,
            step=progress.step,
            total=progress.total,
            eta_seconds=progress.eta_seconds if progress.eta_seconds >= 0 else None,
        )
    if name == "queued":
        detail = text.place(event.queued.position)
        return News(request_id=event.request_id, kind=Kind.QUEUED, detail=detail)
    if name == "failed":
        error = event.failed.error
        detail = f"{error.message} ({error.reason})"
        return News(request_id=event.request_id, kind=Kind.FAILED, detail=detail)
    if name == "checkpointed":
        return _saved(event.request_id, event.checkpointed.step, event.checkpointed.size)
    kind = _PLAIN_KINDS.get(name, Kind.NOTE)
    return News(
        request_id=event.request_id,
        kind=kind,
        step=_noted_step(event),
        detail=_note(event) if kind is Kind.NOTE else "",
    )


def _saved(request_id: str, step: int, size: int) -> News:
    detail = f"checkpoint after step {step}, {text.size(size)}"
    return News(request_id=request_id, kind=Kind.SAVED, step=step, detail=detail)


def resumption(step: int, exactness: str) -> str:
    """Say from where a generation goes on, and what that means for its result."""
    if exactness == "restarted" or not step:
        return "begins anew from its seed"
    if exactness == "exact":
        return f"goes on after step {step}, bit for bit"
    return f"goes on after step {step}; the result may differ a little"


def _noted_step(event: worker_pb2.GenerationEvent) -> int:
    return event.parked.step or event.resumed.from_step or event.cancelled.step


def _note(event: worker_pb2.GenerationEvent) -> str:
    name = event.WhichOneof("event") or "unknown"
    match name:
        case "parked":
            return f"parked after step {event.parked.step}"
        case "unpaused":
            return "goes on"
        case "resumed":
            return resumption(event.resumed.from_step, _EXACTNESS.get(event.resumed.exactness, ""))
        case "handed_over":
            checkpoint = event.handed_over.checkpoint
            if not event.handed_over.HasField("checkpoint"):
                return "handed over, to begin anew"
            return f"handed over after step {checkpoint.step}"
        case "gap":
            return "earlier events are lost"
        case _:
            return name.replace("_", " ")


_EXACTNESS = {
    worker_pb2.EXACTNESS_EXACT: "exact",
    worker_pb2.EXACTNESS_CLOSE: "close",
    worker_pb2.EXACTNESS_RESTARTED: "restarted",
}


def of_engine(event: "_events.GenerationEvent") -> News:
    """Read an event as an engine tells it."""
    name, request_id = event.kind, event.request_id
    if event.progress is not None:
        return News(
            request_id=request_id,
            kind=Kind.STEP,
            step=event.progress.step,
            total=event.progress.total,
            eta_seconds=event.progress.eta_seconds,
        )
    if event.kind == "queued":
        detail = f"{text.place(event.position)} of {event.worker}"
        return News(request_id=request_id, kind=Kind.QUEUED, detail=detail)
    if event.kind == "started":
        detail = f"started on {event.worker}"
        return News(request_id=request_id, kind=Kind.STARTED, detail=detail)
    if event.kind == "failed" and event.error is not None:
        detail = f"{event.error.message} ({event.error.reason})"
        return News(request_id=request_id, kind=Kind.FAILED, detail=detail)
    if name == "checkpointed":
        return _saved(request_id, event.step, event.checkpoint_bytes)
    kind = _PLAIN_KINDS.get(name, Kind.NOTE)
    detail = _engine_note(event) if kind is Kind.NOTE else ""
    return News(request_id=request_id, kind=kind, step=event.step, detail=detail)


def _engine_note(event: "_events.GenerationEvent") -> str:
    match event.kind:
        case "parked":
            return f"parked after step {event.step}"
        case "unpaused":
            return "goes on"
        case "moved":
            return f"has left {event.worker or 'its worker'}; another one will go on"
        case "waiting":
            return f"waits: {event.reason}"
        case "checkpoint_lost":
            return f"its newest checkpoint is not kept: {event.reason}"
        case "resumed":
            return f"{resumption(event.step, event.exactness)}, on {event.worker}"
        case "waiting":
            return f"waits: {event.reason}"
        case "checkpoint_lost":
            return f"goes on without a newer checkpoint: {event.reason}"
        case "gap":
            return "earlier events are lost"
        case _:
            return event.kind


_PLAIN_KINDS = {
    "started": Kind.STARTED,
    "succeeded": Kind.SUCCEEDED,
    "cancelled": Kind.CANCELLED,
}


@dataclass(slots=True)
class Digest:
    """Chooses which news are worth a line where lines cannot be overwritten.

    State changes are; of the steps, those that complete another quarter; of the checkpoints,
    the first one in each quarter.
    """

    _quarters: dict[str, int] = field(default_factory=dict)
    _saved: dict[str, int] = field(default_factory=dict)

    def lines(self, news: News) -> Iterator[str]:  # noqa: C901  # a table
        """Answer the lines that this makes, none or one."""
        name = news.request_id
        match news.kind:
            case Kind.QUEUED:
                yield f"{name}: {news.detail or 'queued'}"
            case Kind.STARTED:
                yield f"{name}: {news.detail or 'started'}"
            case Kind.STEP:
                if self._is_new_quarter(news):
                    yield f"{name}: step {text.steps(news.step, news.total)}{_left(news)}"
            case Kind.SUCCEEDED:
                yield f"{name}: {news.detail or 'done'}"
            case Kind.FAILED:
                yield f"{name}: failed: {news.detail}" if news.detail else f"{name}: failed"
            case Kind.CANCELLED:
                yield f"{name}: cancelled"
            case Kind.SAVED:
                if self._is_new_saving(name):
                    yield f"{name}: {news.detail}"
            case Kind.NOTE:
                yield f"{name}: {news.detail}"
            case _:
                assert_never(news.kind)

    def _is_new_saving(self, name: str) -> bool:
        quarter = self._quarters.get(name, 0)
        is_new = quarter != self._saved.get(name)
        self._saved[name] = quarter
        return is_new

    def _is_new_quarter(self, news: News) -> bool:
        quarter = news.step * 4 // news.total if news.total else news.step // 10
        is_new = quarter != self._quarters.get(news.request_id, 0)
        self._quarters[news.request_id] = quarter
        return is_new


def _left(news: News) -> str:
    return f", {text.seconds(news.eta_seconds)} left" if news.eta_seconds is not None else ""

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
    kind = _PLAIN_KINDS.get(name, Kind.NOTE)
    detail = name.replace("_", " ") if kind is Kind.NOTE else ""
    return News(request_id=event.request_id, kind=kind, detail=detail)


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
    kind = _PLAIN_KINDS.get(name, Kind.NOTE)
    detail = name if kind is Kind.NOTE else ""
    return News(request_id=request_id, kind=kind, detail=detail)


_PLAIN_KINDS = {
    "started": Kind.STARTED,
    "succeeded": Kind.SUCCEEDED,
    "cancelled": Kind.CANCELLED,
}


@dataclass(slots=True)
class Digest:
    """Chooses which news are worth a line where lines cannot be overwritten.

    State changes are; of the steps, those that complete another quarter.
    """

    _quarters: dict[str, int] = field(default_factory=dict)

    def lines(self, news: News) -> Iterator[str]:
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
            case Kind.NOTE:
                yield f"{name}: {news.detail}"
            case _:
                assert_never(news.kind)

    def _is_new_quarter(self, news: News) -> bool:
        quarter = news.step * 4 // news.total if news.total else news.step // 10
        is_new = quarter != self._quarters.get(news.request_id, 0)
        self._quarters[news.request_id] = quarter
        return is_new


def _left(news: News) -> str:
    return f", {text.seconds(news.eta_seconds)} left" if news.eta_seconds is not None else ""

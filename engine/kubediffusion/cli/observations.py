"""What workers and generations look like from outside, as plain data."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kubediffusion.cli import text
from kubediffusion_proto.v1 import worker_pb2

_WORKER_HEADERS = (
    *("NAME", "ADDRESS", "STATE", "MODEL", "DEVICE"),
    *("RUNNING", "QUEUED", "RESUME", "PREVIEW", "PID", "INCARNATION", "UPTIME"),
)
TERMINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "HANDED_OVER"})


_RESUME = {
    worker_pb2.RESUME_CAPABILITY_EXACT: "exact",
    worker_pb2.RESUME_CAPABILITY_CLOSE: "close",
    worker_pb2.RESUME_CAPABILITY_RESTART: "restart",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as it described itself, or as its announcement does when it is silent."""

    name: str
    address: str
    state: str
    """SERVING and its like, or UNREACHABLE."""
    model: str = ""
    pipeline: str = ""
    device: str = ""
    running: int = 0
    queued: int = 0
    queued_seconds: float = 0.0
    retained_bytes: int = 0
    process_id: int = 0
    incarnation: str = ""
    uptime_seconds: float | None = None
    resume: str = ""
    """What a generation of it is on another one: exact, close, or restart, from the seed."""
    has_previews: bool = False
    fingerprint: str = ""
    """Equal ones give equal bits."""
    problem: str = ""
    """Why it is unreachable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationView:
    """A generation as one worker holds it."""

    request_id: str
    engine_id: str
    state: str
    worker: str
    step: int = 0
    total: int = 0
    eta_seconds: float | None = None
    attempt: int = 1
    position: int | None = None
    age_seconds: float = 0.0
    result_bytes: int = 0
    reason: str = ""
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in TERMINAL_STATES


def worker_view(address: str, worker: worker_pb2.Worker, *, now: float) -> WorkerView:
    """Read a worker's description of itself.

    Args:
        address: Where it was reached.
        worker: What it answered.
        now: Unix time in seconds.
    """
    started = worker.start_time.ToNanoseconds() / 1e9
    return WorkerView(
        name=worker.name,
        address=address,
        state=worker_state(worker.state),
        model=worker.model.id,
        pipeline=worker.model.pipeline,
        device=worker.device,
        running=worker.load.running,
        queued=worker.load.queued,
        queued_seconds=worker.load.queued_seconds,
        retained_bytes=worker.load.retained_bytes,
        process_id=worker.process_id,
        incarnation=worker.incarnation,
        uptime_seconds=max(0.0, now - started) if started else None,
        resume=_RESUME.get(worker.capabilities.resume, ""),
        has_previews=worker.capabilities.preview,
        fingerprint=worker.fingerprint,
    )


def generation_view(
    worker_name: str, generation: worker_pb2.Generation, *, now: float
) -> GenerationView:
    """Read what a worker says of a generation.

    Args:
        worker_name: Who says it.
        generation: What it says.
        now: Unix time in seconds.
    """
    progress, state = generation.progress, generation_state(generation.state)
    submitted = generation.submit_time.ToNanoseconds() / 1e9
    is_running = state == "RUNNING"
    return GenerationView(
        request_id=generation.request_id,
        engine_id=generation.engine_id,
        state=state,
        worker=worker_name,
        step=progress.step,
        total=progress.total,
        eta_seconds=progress.eta_seconds if is_running and progress.eta_seconds >= 0 else None,
        attempt=generation.attempt,
        position=generation.position if state == "QUEUED" else None,
        age_seconds=max(0.0, now - submitted) if submitted else 0.0,
        result_bytes=generation.result.size,
        reason=generation.error.reason,
        message=generation.error.message,
    )


def generation_state(state: worker_pb2.GenerationState) -> str:
    """Write a state as people do: RUNNING."""
    return worker_pb2.GenerationState.Name(state).removeprefix("GENERATION_STATE_")


def worker_state(state: worker_pb2.WorkerState) -> str:
    """Write a state as people do: SERVING."""
    return worker_pb2.WorkerState.Name(state).removeprefix("WORKER_STATE_")


def workers_table(views: Sequence[WorkerView]) -> str:
    """Write the table that `kubediffusion workers` prints."""
    return text.table(_WORKER_HEADERS, [_worker_cells(view) for view in views])


def _worker_cells(view: WorkerView) -> tuple[str, ...]:
    is_known = view.incarnation != ""
    return (
        view.name,
        view.address,
        view.state,
        view.model,
        view.device,
        str(view.running) if is_known else "",
        str(view.queued) if is_known else "",
        view.resume,
        ("yes" if view.has_previews else "no") if is_known else "",
        str(view.process_id) if view.process_id else "",
        text.short(view.incarnation),
        "" if view.uptime_seconds is None else text.seconds(view.uptime_seconds),
    )


def generations_table(views: Sequence[GenerationView]) -> str:
    """Write the table that `kubediffusion list` prints."""
    headers = ("ID", "STATE", "STEP", "WORKER", "ENGINE", "AGE", "NOTE")
    return text.table(headers, [_generation_cells(view) for view in views])


def _generation_cells(view: GenerationView) -> tuple[str, ...]:
    return (
        view.request_id,
        view.state,
        text.steps(view.step, view.total),
        view.worker,
        view.engine_id,
        text.seconds(view.age_seconds),
        _note(view),
    )


def _note(view: GenerationView) -> str:
    if view.reason:
        return view.reason
    if view.position is not None:
        return text.place(view.position)
    if view.eta_seconds is not None:
        return f"{text.seconds(view.eta_seconds)} left"
    if view.result_bytes:
        return text.size(view.result_bytes)
    return ""


def as_json(view: WorkerView | GenerationView) -> dict[str, Any]:  # Any: what json.dumps takes.
    """Turn a view into what `--json` prints: its fields by their names."""
    return dataclasses.asdict(view)

"""What an engine tells its user of the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubediffusion_proto.v1 import worker_pb2

if TYPE_CHECKING:
    from kubediffusion import _session
    from kubediffusion_wire import errors


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One worker, as it last described itself."""

    name: str
    address: str
    """"host:port", "unix:/path" or "in-process"."""
    incarnation: str
    """Of its life; empty where it was never reached."""
    process_id: int
    state: str
    """"starting", "serving", "draining", "drained", "failed", or "unreachable"."""
    model: str
    pipeline: str
    """The pipeline's class."""
    device: str
    fingerprint: str
    """Names what results depend on; equal ones give equal bits."""
    adapters: tuple[str, ...]
    """Resident LoRA adapters."""
    running: int
    queued: int
    queued_seconds: float
    """Estimated work ahead of a new request."""
    retained_bytes: int
    problem: errors.KubediffusionError | None = None
    """Why it cannot be reached."""


def describe(session: _session.Session) -> WorkerInfo:
    """Return what is known of a worker."""
    worker, load = session.worker, session.load
    state = worker_pb2.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower()
    return WorkerInfo(
        name=session.link.name,
        address=session.link.address,
        incarnation=worker.incarnation,
        process_id=worker.process_id,
        state=state if session.is_attached else "unreachable",
        model=worker.model.id,
        pipeline=worker.model.pipeline,
        device=worker.device,
        fingerprint=worker.fingerprint,
        adapters=tuple(adapter.name for adapter in worker.adapters),
        running=load.running,
        queued=load.queued,
        queued_seconds=load.queued_seconds,
        retained_bytes=load.retained_bytes,
        problem=session.problem,
    )

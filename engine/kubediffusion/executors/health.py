"""Asking workers whether they would serve a request sent now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kubediffusion._links import protocol
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors


async def problems(
    links: Sequence[protocol.WorkerLink],
) -> tuple[errors.KubediffusionError, ...]:
    """Return what is wrong with the workers, in order; nothing where all would serve."""
    answers = await asyncio.gather(*(_problem(link) for link in links))
    return tuple(problem for problem in answers if problem is not None)


async def _problem(link: protocol.WorkerLink) -> errors.KubediffusionError | None:
    try:
        answer = await link.get_worker()
    except errors.KubediffusionError as error:
        return type(error)(f"worker {link.name!r} at {link.address}: {error.message}")
    return state_problem(answer.worker, link.name)


def state_problem(worker: worker_pb2.Worker, name: str) -> errors.KubediffusionError | None:
    """Return why a worker in this state would not serve; None where it would. Pure."""
    match worker.state:
        case worker_pb2.WORKER_STATE_SERVING:
            return None
        case worker_pb2.WORKER_STATE_STARTING:
            return errors.WorkerStartingError(f"worker {name!r} still loads its model")
        case worker_pb2.WORKER_STATE_DRAINING:
            return errors.WorkerDrainingError(f"worker {name!r} is draining")
        case worker_pb2.WORKER_STATE_DRAINED:
            return errors.WorkerDrainingError(f"worker {name!r} is drained")
        case _:  # FAILED, and states that only newer workers know
            return errors.WorkerFailedError(f"worker {name!r} has failed")


def raise_for(found: Sequence[errors.KubediffusionError]) -> None:
    """Raise the first problem, with the texts of all, where there is one."""
    if not found:
        return
    first, rest = found[0], found[1:]
    if not rest:
        raise first
    raise type(first)("; ".join(problem.message for problem in found))

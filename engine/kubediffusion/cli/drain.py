"""`kubediffusion drain` and `undrain`: empties a worker, and lets it work again.

These speak for a person: they fence no engine. Whichever engines have work on the worker
learn of it from their streams, and have it go on elsewhere.
"""

import asyncio
import json
from collections.abc import Sequence

import click

from kubediffusion._links import protocol
from kubediffusion.cli import fleet, observations, observer, options, patience, text
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, validation

POLICIES = {
    "finish": worker_pb2.DRAIN_POLICY_FINISH,
    "checkpoint": worker_pb2.DRAIN_POLICY_CHECKPOINT,
    "finish-then-checkpoint": worker_pb2.DRAIN_POLICY_FINISH_THEN_CHECKPOINT,
}

_EPILOG = """\b
Examples:
  kubediffusion drain worker-1 --wait
  kubediffusion drain worker-1 --policy checkpoint --wait
  kubediffusion drain gpu-7 --workers 10.0.0.7:50051 --budget 600"""

_OPERATOR = "kubediffusion-cli"
"""As which engine a drain asks; it has no generations."""


@click.command(epilog=_EPILOG)
@click.argument("worker")
@click.option(
    "--policy",
    type=click.Choice(tuple(POLICIES)),
    default="finish-then-checkpoint",
    show_default=True,
    help="What becomes of what runs: it may finish; it is saved after the step under way and "
    "goes on elsewhere; or the first, as far as the budget allows, then the second.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="For what runs to finish.  [default: the worker's --grace]",
)
@click.option("--wait", "is_patient", is_flag=True, help="Wait until it is drained.")
@options.timeout(None, "Give up waiting after this long.")
@options.reach
@options.as_json
def drain(
    reach: options.Reach,
    worker: str,
    policy: str,
    budget: float | None,
    is_patient: bool,
    timeout: float | None,
    is_json: bool,
) -> None:
    """Let WORKER take no new work and empty itself.

    What waits there goes to other workers at once. The process stays, DRAINED, until
    `undrain` or `worker stop`.
    """
    request = worker_pb2.DrainRequest(caller=_caller(), policy=POLICIES[policy])
    if budget is not None:
        request.budget.FromNanoseconds(round(budget * 1e9))
    name, state = asyncio.run(
        _drain(reach, worker, request, timeout, is_patient=is_patient, is_silent=is_json)
    )
    _tell(name, state, is_json=is_json)


@click.command(epilog="\b\nExample:\n  kubediffusion undrain worker-1")
@click.argument("worker")
@options.reach
@options.as_json
def undrain(reach: options.Reach, worker: str, is_json: bool) -> None:
    """Let WORKER take work again."""
    name, state = asyncio.run(_undrain(reach, worker))
    _tell(name, state, is_json=is_json)


def _tell(name: str, state: str, *, is_json: bool) -> None:
    if is_json:
        click.echo(json.dumps({"name": name, "state": state}, indent=2))
    else:
        click.echo(f"{name}: {state.lower()}")


async def _drain(
    reach: options.Reach,
    worker: str,
    request: worker_pb2.DrainRequest,
    timeout: float | None,
    *,
    is_patient: bool,
    is_silent: bool,
) -> tuple[str, str]:
    async with fleet.connect(reach, fleet.some_endpoints(reach)) as links:
        name, link = await find(links, worker)
        state = observations.worker_state((await link.drain(request)).state)
        if is_patient and state != "DRAINED":
            async with patience.at_most(timeout, f"{name} was not drained"):
                await _until_drained(name, link, is_silent=is_silent)
            state = "DRAINED"
    return name, state


async def _undrain(reach: options.Reach, worker: str) -> tuple[str, str]:
    async with fleet.connect(reach, fleet.some_endpoints(reach)) as links:
        name, link = await find(links, worker)
        answer = await link.undrain(worker_pb2.UndrainRequest(caller=_caller()))
        return name, observations.worker_state(answer.state)


async def find(
    links: Sequence[protocol.WorkerLink], worker: str
) -> tuple[str, protocol.WorkerLink]:
    """Find a worker by its name or address; answer its name and the link.

    Those that were given by address alone are asked for their names.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: There is none; the nearest names are in
            the message.
    """
    for link in links:
        if link.name == worker != link.address:
            return link.name, link
    views = await asyncio.gather(*(observer.describe(link, now=0.0) for link in links))
    for link, view in zip(links, views, strict=True):
        if worker in (view.name, link.address):
            return view.name, link
    names = sorted(view.name for view in views)
    near = validation.nearest(worker, names) or names
    raise errors.InvalidRequestError(
        f"there is no worker {worker!r}; did you mean {' or '.join(map(repr, near))}?"
    )


async def _until_drained(name: str, link: protocol.WorkerLink, *, is_silent: bool) -> None:
    """Wait until a worker says that it is drained.

    Raises:
        kubediffusion_wire.errors.WorkerGoneError: It has ended.
    """
    request = worker_pb2.WatchGenerationsRequest(
        caller=observer.caller(_OPERATOR, worker_pb2.ROLE_OBSERVER)
    )
    told = ""
    async for response in link.watch_generations(request):
        if response.state == worker_pb2.WORKER_STATE_DRAINED:
            return
        if response.HasField("load") and not is_silent:
            told = _tell_load(name, response.load, told)
    raise errors.WorkerGoneError(f"worker {name!r} ended before it was drained")


def _tell_load(name: str, load: worker_pb2.WorkerLoad, told: str) -> str:
    line = f"{name}: draining, {load.running} running, {load.queued} waiting, "
    line += f"{text.size(load.retained_bytes)} kept"
    if line != told:
        click.echo(line, err=True)
    return line


def _caller() -> worker_pb2.Caller:
    return observer.caller(_OPERATOR, worker_pb2.ROLE_OPERATOR)

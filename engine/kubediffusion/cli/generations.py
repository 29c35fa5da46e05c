"""`kubediffusion list` and `cancel`: which generations workers hold, and how to stop one.

Like `watch` and `fetch` these look from outside: reads go to the workers, raise no epoch and
acknowledge nothing, and a cancel comes from a person rather than from an engine.
"""

import asyncio
import json
import time

import click

from kubediffusion._links import protocol
from kubediffusion.cli import exits, fleet, observations, observer, options, patience
from kubediffusion_wire import identifiers

_STATES = ("QUEUED", "RUNNING", "PARKED", *sorted(observations.TERMINAL_STATES))


@click.command(name="list")
@options.reach
@options.engine_id
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(_STATES, case_sensitive=False),
    help="In this state only; may be repeated.",
)
@options.as_json
def list_generations(
    reach: options.Reach, engine_id: str, states: tuple[str, ...], is_json: bool
) -> None:
    """List the generations that workers hold."""
    survey = asyncio.run(_survey(reach, engine_id))
    for silence in survey.silences:
        click.echo(f"{silence.address} does not answer: {silence.error.message}", err=True)
    now = time.time()
    views = [
        observations.generation_view(sighting.link.name, sighting.generation, now=now)
        for sighting in survey.sightings
    ]
    views = [view for view in views if not states or view.state in states]
    views.sort(key=lambda view: view.age_seconds, reverse=True)
    if is_json:
        click.echo(json.dumps([observations.as_json(view) for view in views], indent=2))
    elif views:
        click.echo(observations.generations_table(views))
    else:
        click.echo("The workers hold no such generations.", err=True)


async def _survey(reach: options.Reach, engine_id: str) -> observer.Survey:
    async with fleet.connect(reach, fleet.some_endpoints(reach)) as links:
        return await observer.survey(links, engine_id)


@click.command()
@click.argument("request_ids", metavar="ID...", nargs=-1, required=True)
@options.reach
@options.engine_id
@options.timeout(30.0, "Give up waiting for the confirmation after this long.")
@options.as_json
def cancel(
    reach: options.Reach,
    request_ids: tuple[str, ...],
    engine_id: str,
    timeout: float,
    is_json: bool,
) -> int:
    """Cancel generations, and wait until their workers confirm it.

    One that has ended already stays as it is. Ends with exit code 1 if not all of them are
    cancelled now.
    """
    for request_id in request_ids:
        identifiers.check_request_id(request_id)
    states = asyncio.run(_cancel_all(reach, request_ids, engine_id, timeout))
    if is_json:
        rows = [{"request_id": name, "state": state} for name, state in states.items()]
        click.echo(json.dumps(rows, indent=2))
    else:
        for name, state in states.items():
            click.echo(f"{name}: {state.lower().replace('_', ' ')}")
    is_done = all(state == "CANCELLED" for state in states.values())
    return exits.ExitCode.OK if is_done else exits.ExitCode.FAILED


async def _cancel_all(
    reach: options.Reach, request_ids: tuple[str, ...], engine_id: str, timeout: float
) -> dict[str, str]:
    async with (
        patience.at_most(timeout, "not all were confirmed"),
        fleet.connect(reach, fleet.some_endpoints(reach)) as links,
    ):
        # All are found before the first is cancelled, so that a typing error cancels none.
        found = [await observer.locate(links, name, engine_id) for name in request_ids]
        states = [await _cancel_one(sighting) for sighting in found]
    return dict(zip(request_ids, states, strict=True))


async def _cancel_one(sighting: observer.Sighting) -> str:
    state = await observer.cancel(sighting)
    if state in observations.TERMINAL_STATES:
        return state
    generation = sighting.generation
    links: tuple[protocol.WorkerLink, ...] = (sighting.link,)
    async for event in observer.events(links, generation.request_id, generation.engine_id):
        if observer.is_terminal(event):
            state = (event.WhichOneof("event") or "").upper()
    return state

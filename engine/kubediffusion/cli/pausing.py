"""`kubediffusion pause` and `resume`: parks generations, and lets them go on.

As with `cancel`, these come from a person rather than from an engine.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable

import click

from kubediffusion._links import protocol
from kubediffusion.cli import exits, fleet, observations, observer, options, patience
from kubediffusion_wire import identifiers

_Ask = Callable[[observer.Sighting], Awaitable[str]]
_States = dict[str, str]


@click.command(epilog="\b\nExample:\n  kubediffusion pause film && kubediffusion resume film")
@click.argument("request_ids", metavar="ID...", nargs=-1, required=True)
@options.reach
@options.engine_id
@options.timeout(60.0, "Give up waiting for the end of the step under way after this long.")
@options.as_json
def pause(
    reach: options.Reach,
    request_ids: tuple[str, ...],
    engine_id: str,
    timeout: float,
    is_json: bool,
) -> int:
    """Park generations after the step under way, and wait until they are.

    Their workers keep their state and compute something else. Ends with exit code 1 if not
    all of them are parked now; one that has ended stays as it is.
    """
    states = _run(reach, request_ids, engine_id, timeout, observer.pause, _until_parked)
    return _tell(states, is_json=is_json, is_good=_is_paused)


@click.command(epilog="\b\nExample:\n  kubediffusion resume film")
@click.argument("request_ids", metavar="ID...", nargs=-1, required=True)
@options.reach
@options.engine_id
@options.timeout(30.0, "Give up after this long.")
@options.as_json
def resume(
    reach: options.Reach,
    request_ids: tuple[str, ...],
    engine_id: str,
    timeout: float,
    is_json: bool,
) -> int:
    """Let parked generations go on.

    One that is not parked goes on as it does. Ends with exit code 1 if one of them has
    failed or was cancelled.
    """
    states = _run(reach, request_ids, engine_id, timeout, observer.unpause, None)
    return _tell(states, is_json=is_json, is_good=lambda s: s not in ("FAILED", "CANCELLED"))


def _is_paused(state: str) -> bool:
    # One that waits for its turn is not computed either, and will not be.
    return state in ("PARKED", "QUEUED")


def _run(
    reach: options.Reach,
    request_ids: tuple[str, ...],
    engine_id: str,
    timeout: float,
    ask: _Ask,
    confirm: _Ask | None,
) -> _States:
    for request_id in request_ids:
        identifiers.check_request_id(request_id)
    return asyncio.run(_ask_all(reach, request_ids, engine_id, timeout, ask, confirm))


async def _ask_all(
    reach: options.Reach,
    request_ids: tuple[str, ...],
    engine_id: str,
    timeout: float,
    ask: _Ask,
    confirm: _Ask | None,
) -> _States:
    async with (
        patience.at_most(timeout, "not all were confirmed"),
        fleet.connect(reach, fleet.some_endpoints(reach)) as links,
    ):
        # All are found before the first is asked, so that a typing error changes none.
        found = [await observer.locate(links, name, engine_id) for name in request_ids]
        states = {}
        for name, sighting in zip(request_ids, found, strict=True):
            states[name] = await ask(sighting)
            if confirm is not None and states[name] == "RUNNING":
                states[name] = await confirm(sighting)
        return states


async def _until_parked(sighting: observer.Sighting) -> str:
    """Wait until a generation is parked or has ended; answer the state."""
    generation = sighting.generation
    links: tuple[protocol.WorkerLink, ...] = (sighting.link,)
    async for event in observer.events(links, generation.request_id, generation.engine_id):
        if observer.is_terminal(event):
            return (event.WhichOneof("event") or "").upper()
        # The stream begins with the past, which may know of earlier pauses.
        if event.HasField("parked") and await _state(sighting) == "PARKED":
            return "PARKED"
    return await _state(sighting)


async def _state(sighting: observer.Sighting) -> str:
    generation = sighting.generation
    now = await observer.locate([sighting.link], generation.request_id, generation.engine_id)
    return observations.generation_state(now.generation.state)


def _tell(states: _States, *, is_json: bool, is_good: Callable[[str], bool]) -> int:
    if is_json:
        rows = [{"request_id": name, "state": state} for name, state in states.items()]
        click.echo(json.dumps(rows, indent=2))
    else:
        for name, state in states.items():
            click.echo(f"{name}: {state.lower().replace('_', ' ')}")
    return exits.ExitCode.OK if all(map(is_good, states.values())) else exits.ExitCode.FAILED

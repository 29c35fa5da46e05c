"""`kubediffusion workers`: which workers there are, and what they do."""

import asyncio
import json
import time

import click

from kubediffusion.cli import exits, fleet, observations, observer, options


@click.command()
@options.reach
@options.as_json
def workers(reach: options.Reach, is_json: bool) -> int:
    """List the workers and their load.

    Ends with exit code 3 if not one of them answers.
    """
    views = asyncio.run(_describe_all(reach))
    if is_json:
        click.echo(json.dumps([observations.as_json(view) for view in views], indent=2))
    elif views:
        click.echo(observations.workers_table(views))
    else:
        click.echo(f"No worker is announced in {str(fleet.folder(reach))!r}.", err=True)
    for view in views:
        if view.problem:
            click.echo(f"{view.name} does not answer: {view.problem}", err=True)
    is_any_there = any(not view.problem for view in views)
    return exits.ExitCode.OK if is_any_there else exits.ExitCode.UNREACHABLE


async def _describe_all(reach: options.Reach) -> list[observations.WorkerView]:
    found, now = fleet.endpoints(reach), time.time()
    async with fleet.connect(reach, found) as links:
        return await asyncio.gather(*(observer.describe(link, now=now) for link in links))

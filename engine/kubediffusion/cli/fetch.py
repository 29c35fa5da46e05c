"""`kubediffusion fetch`: saves a result, which the worker goes on to keep."""

import asyncio
import json
import pathlib

import click

from kubediffusion._links import protocol
from kubediffusion.cli import files, fleet, observations, observer, options, patience, saving, text
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers


@click.command()
@click.argument("request_id", metavar="ID")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=pathlib.Path),
    help="File, or existing folder, to save to.  [default: ID.png]",
)
@click.option(
    "--format",
    "wanted",
    type=click.Choice(files.FORMATS),
    help="[default: by the suffix, else png]",
)
@click.option("--wait", "is_patient", is_flag=True, help="Wait until the result is there.")
@options.timeout(None, "Give up after this long.")
@options.reach
@options.engine_id
@options.as_json
def fetch(
    reach: options.Reach,
    request_id: str,
    output: pathlib.Path | None,
    wanted: str | None,
    is_patient: bool,
    timeout: float | None,
    engine_id: str,
    is_json: bool,
) -> None:
    """Save the result of generation ID.

    The worker keeps it: nothing is acknowledged, so the engine that owns the generation
    still gets its result.
    """
    identifiers.check_request_id(request_id)
    output = output or pathlib.Path(f"{request_id}.{wanted or 'png'}")
    format_name = files.check_target(output, wanted)
    result = asyncio.run(_fetch(reach, request_id, engine_id, timeout, is_patient=is_patient))
    saved = save(result, output, format_name)
    if is_json:
        click.echo(json.dumps(saved, indent=2))
    else:
        for row in saved:
            click.echo(row["path"])


async def _fetch(
    reach: options.Reach,
    request_id: str,
    engine_id: str,
    timeout: float | None,
    *,
    is_patient: bool,
) -> protocol.FetchedResult:
    async with (
        patience.at_most(timeout, "the result was not there"),
        fleet.connect(reach, fleet.some_endpoints(reach)) as links,
    ):
        if is_patient:
            async for _ in observer.events(links, request_id, engine_id):
                pass
        sighting = await observer.locate(links, request_id, engine_id)
        generation = sighting.generation
        check_succeeded(generation)
        return await sighting.link.fetch_result(generation.engine_id, request_id)


def check_succeeded(generation: worker_pb2.Generation) -> None:
    """Return if a generation has a result.

    Raises:
        kubediffusion_wire.errors.KubediffusionError: It failed, with its own error; it was
            cancelled; or it has not ended.
    """
    name = generation.request_id
    if generation.state == worker_pb2.GENERATION_STATE_FAILED:
        raise errors.from_message(generation.error)
    if generation.state == worker_pb2.GENERATION_STATE_CANCELLED:
        raise errors.GenerationCancelledError(f"generation {name!r} was cancelled")
    if generation.state != worker_pb2.GENERATION_STATE_SUCCEEDED:
        state = observations.generation_state(generation.state).lower()
        steps = text.steps(generation.progress.step, generation.progress.total)
        raise errors.ResultNotReadyError(
            f"generation {name!r} is {state}" + (f", step {steps}" if steps else "")
        )


def save(
    result: protocol.FetchedResult, output: pathlib.Path, format_name: str
) -> list[dict[str, str | int]]:
    """Save all outputs of a result, and say which went where."""
    outputs = result.header.outputs
    paths = files.names(output, len(outputs), format_name)
    data = memoryview(result.data)
    return [
        {"path": str(saved), "seed": item.seed}
        for item, path in zip(outputs, paths, strict=True)
        for saved in saving.save_output(
            item, data[item.offset : item.offset + item.size], path, format_name
        )
    ]

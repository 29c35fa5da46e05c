"""`kubediffusion watch`: a generation's events, past and coming, until its end."""

import asyncio
import pathlib

import click
from google.protobuf import json_format

from kubediffusion.cli import displays, exits, fleet, news, observer, options, patience
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import identifiers


@click.command()
@click.argument("request_id", metavar="ID")
@options.reach
@options.engine_id
@click.option(
    "--previews",
    "folder",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    metavar="FOLDER",
    help="Save previews there, as ID-STEP.jpg.",
)
@options.timeout(None, "Stop watching after this long.")
@options.as_json
def watch(
    reach: options.Reach,
    request_id: str,
    engine_id: str,
    folder: pathlib.Path | None,
    timeout: float | None,
    is_json: bool,
) -> int:
    """Follow generation ID until it ends: its past first, then live.

    It is followed to whichever worker goes on with it. Ending the watch never ends the
    generation. With --json each event is a line.
    """
    identifiers.check_request_id(request_id)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    last = asyncio.run(_watch(reach, request_id, engine_id, timeout, folder, is_json=is_json))
    is_bad = last in (news.Kind.FAILED, news.Kind.CANCELLED)
    return exits.ExitCode.FAILED if is_bad else exits.ExitCode.OK


async def _watch(
    reach: options.Reach,
    request_id: str,
    engine_id: str,
    timeout: float | None,
    folder: pathlib.Path | None,
    *,
    is_json: bool,
) -> news.Kind:
    last = news.Kind.NOTE
    async with (
        patience.at_most(timeout, "the generation had not ended"),
        fleet.connect(reach, fleet.some_endpoints(reach)) as links,
    ):
        with displays.choose(is_silent=is_json) as display:
            async for event in observer.events(
                links, request_id, engine_id, has_previews=folder is not None
            ):
                if folder is not None and event.HasField("preview"):
                    save_preview(event, folder)
                if is_json:
                    click.echo(event_line(event))
                item = news.of_event(event)
                display.show(item)
                last = item.kind
    return last


def save_preview(event: worker_pb2.GenerationEvent, folder: pathlib.Path) -> pathlib.Path:
    """Save a preview, a JPEG file, and answer where."""
    path = folder / f"{event.request_id}-{event.preview.step:04d}.jpg"
    path.write_bytes(event.preview.image)
    return path


def event_line(event: worker_pb2.GenerationEvent) -> str:
    """Write an event as a line of JSON with the wire's names; previews go without pixels."""
    shown = worker_pb2.GenerationEvent()
    shown.CopyFrom(event)
    if shown.HasField("preview"):
        shown.preview.ClearField("image")
    return json_format.MessageToJson(shown, preserving_proto_field_name=True, indent=None)

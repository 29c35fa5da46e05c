"""`kubediffusion checkpoint`: takes a checkpoint of a generation, to look at it or keep it."""

import asyncio
import json
import os
import pathlib
import struct
from typing import Any

import click

from kubediffusion._links import protocol
from kubediffusion.cli import fleet, observer, options, patience, text
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import identifiers

_EPILOG = """\b
Examples:
  kubediffusion checkpoint film
  kubediffusion checkpoint film --newest -o film.checkpoint"""

MAX_HEADER_BYTES = 16_000_000
"""Of a checkpoint, as workers have it."""


@click.command(epilog=_EPILOG)
@click.argument("request_id", metavar="ID")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Save the checkpoint to this file.",
)
@click.option(
    "--newest", "is_newest", is_flag=True, help="Take none; look at the newest that there is."
)
@options.timeout(300.0, "Give up after this long.")
@options.reach
@options.engine_id
@options.as_json
def checkpoint(
    reach: options.Reach,
    request_id: str,
    output: pathlib.Path | None,
    is_newest: bool,
    timeout: float,
    engine_id: str,
    is_json: bool,
) -> None:
    """Take a checkpoint of generation ID after the step under way, and tell what it holds.

    The generation goes on meanwhile, and its worker keeps the checkpoint as any other.
    """
    identifiers.check_request_id(request_id)
    if output is not None and not output.parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(output.parent)!r}")
    worker, fetched = asyncio.run(
        _fetch(reach, request_id, engine_id, timeout, is_newest=is_newest)
    )
    if output is not None:
        save(fetched.data, output)
    known = {"request_id": request_id, "worker": worker, **facts(fetched)}
    if output is not None:
        known["path"] = str(output)
    click.echo(json.dumps(known, indent=2) if is_json else as_text(known))


async def _fetch(
    reach: options.Reach, request_id: str, engine_id: str, timeout: float, *, is_newest: bool
) -> tuple[str, protocol.FetchedCheckpoint]:
    async with (
        patience.at_most(timeout, "there was no checkpoint"),
        fleet.connect(reach, fleet.some_endpoints(reach)) as links,
    ):
        sighting = await observer.locate(links, request_id, engine_id)
        step = 0
        if not is_newest:
            taken = await sighting.link.take_checkpoint(
                worker_pb2.TakeCheckpointRequest(
                    caller=observer.operator(sighting), request_id=request_id
                )
            )
            step = taken.checkpoint.step
        fetched = await sighting.link.fetch_checkpoint(
            sighting.generation.engine_id, request_id, step
        )
        return sighting.link.name, fetched


def facts(fetched: protocol.FetchedCheckpoint) -> dict[str, Any]:  # Any: what json.dumps takes.
    """Tell what a checkpoint says about itself, as far as this release can read it."""
    info = fetched.info
    known: dict[str, Any] = {
        "step": info.step,
        "size": info.size,
        "sha256": info.sha256,
        "fingerprint": info.fingerprint,
        "format": info.format,
    }
    header = read_header(fetched.data)
    if header is not None:
        told = header.get("__metadata__", {})
        known |= {key: told[name] for name, key in _TOLD.items() if name in told}
        known["tensors"] = len(header) - ("__metadata__" in header)
    return known


_TOLD = {
    "class_name": "pipeline",
    "seed": "seed",
    "spec_digest": "spec_digest",
    "weights_digest": "weights_digest",
}
"""What is told of a checkpoint's own strings, and as what."""


def read_header(data: bytes | bytearray | memoryview) -> dict[str, Any] | None:
    """Read what a safetensors file begins with: 8 bytes of size, then JSON.

    Returns:
        None where it is none.
    """
    if len(data) < 8:
        return None
    (size,) = struct.unpack_from("<Q", data)
    if size > min(MAX_HEADER_BYTES, len(data) - 8):
        return None
    try:
        header = json.loads(bytes(memoryview(data)[8 : 8 + size]))
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def as_text(known: dict[str, Any]) -> str:
    """Write facts for people."""
    rows = {"generation": f"{known['request_id']} on {known['worker']}"}
    rows |= {
        name.replace("_", " "): str(value)
        for name, value in known.items()
        if name not in ("request_id", "worker")
    }
    rows["size"] = text.size(known["size"])
    width = max(map(len, rows))
    return "\n".join(f"{name.ljust(width)}   {value}" for name, value in rows.items())


def save(data: bytes | bytearray | memoryview, path: pathlib.Path) -> None:
    """Save a checkpoint, whole or not at all; prompts can be told from it, so it is private."""
    scratch = path.with_name(path.name + ".new")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    scratch.rename(path)

"""`kubediffusion generate`: from prompts to files, through an engine."""

import asyncio
import itertools
import json
import pathlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import click

from kubediffusion.cli import displays, files, options, order, requests, running
from kubediffusion_wire import identifiers

_PICTURE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)


_EPILOG = """\b
Examples:
  kubediffusion generate "a red circle on a blue background" --seed 1 -o circle.png
  kubediffusion generate "a green star" "a blue square" --steps 20 -o out.png
  kubediffusion generate "a yellow square" --request-id mine --detach
  kubediffusion fetch mine --wait -o mine.png
"""


@click.command(epilog=_EPILOG)
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=pathlib.Path),
    default=pathlib.Path("out.png"),
    show_default=True,
    help="File, or existing folder; several images become out-0.png, out-1.png …",
)
@click.option(
    "--format",
    "wanted_format",
    type=click.Choice(files.FORMATS),
    help="[default: by the suffix, else png]",
)
@click.option(
    "--steps",
    type=int,
    help="Denoising steps.  [default: the pipeline's; 100 for the demo model]",
)
@click.option("--seed", type=int, help="The same seed gives the same image.")
@click.option("--height", type=int, help="In pixels.")
@click.option("--width", type=int, help="In pixels.")
@click.option(
    "--guidance-scale",
    type=float,
    help="How closely to follow the prompt.  [default: the pipeline's; 1.5 for the demo model]",
)
@click.option("--negative-prompt", help="What not to draw.")
@click.option("--num-outputs", type=int, help="Images or videos for each prompt.")
@click.option("--num-frames", type=int, help="Length of a video.")
@click.option("--image", type=_PICTURE, help="Starting image: PNG, JPEG or WebP.")
@click.option("--mask-image", type=_PICTURE, help="Where to paint anew: white.")
@click.option("--strength", type=float, help="0 keeps the starting image, 1 ignores it.")
@click.option(
    "--lora",
    "loras",
    multiple=True,
    type=requests.parse_lora,
    metavar="NAME[:SCALE]",
    help="LoRA adapter of the workers; may be repeated.",
)
@click.option(
    "--set",
    "extra_args",
    multiple=True,
    type=requests.parse_setting,
    metavar="KEY=VALUE",
    help="Further argument of the pipeline, value in JSON; may be repeated.",
)
@click.option(
    "--backend",
    type=click.Choice(order.BACKENDS),
    help="Workers that are there (external), as children (mp), or in this process (uni)."
    "  [default: external if there are any, else mp]",
)
@click.option("--model", help='Folder, hub id or "demo".  [default: demo, or what workers have]')
@click.option("--num-workers", type=click.IntRange(1), default=1, help="How many, with mp.")
@click.option("--request-id", metavar="ID", help="ID, or ID-0, ID-1 … of several prompts.")
@click.option("--engine-id", metavar="ID", help="Who owns the generations.  [default: drawn]")
@click.option("--detach", "is_detached", is_flag=True, help="Submit, print the ids, and leave.")
@options.timeout(None, "Cancel and give up after this long.")
@options.reach
@options.as_json
def generate(
    reach: options.Reach,
    /,
    prompts: tuple[str, ...],
    output: pathlib.Path,
    wanted_format: str | None,
    backend: str | None,
    model: str | None,
    num_workers: int,
    request_id: str | None,
    engine_id: str | None,
    is_detached: bool,
    timeout: float | None,
    is_json: bool,
    **parameters: Any,  # Any: the fields of `requests.Wanted`, which click has checked.
) -> int:
    """Generate images or video from each PROMPT.

    What is not given is left to the pipeline. Ctrl-C cancels.
    """
    format_name = files.check_target(output, wanted_format)
    encoding = "mp4" if format_name == "mp4" else None
    given = order.Order(
        prompts=prompts,
        request_ids=requests.request_ids(request_id, len(prompts), _drawn_ids()),
        wanted=requests.Wanted(encoding=encoding, **parameters),
        output=output,
        format_name=format_name,
        backend=order.choose_backend(backend, reach, is_detached=is_detached),
        model=model,
        num_workers=num_workers,
        engine_id=engine_id or f"cli-{uuid.uuid4().hex[:8]}",
        is_detached=is_detached,
    )
    for name in given.request_ids:
        identifiers.check_request_id(name)
    with displays.choose(is_silent=is_json) as display:
        outcomes = asyncio.run(running.run(given, reach, display, timeout=timeout))
    _tell(outcomes, is_json=is_json)
    return max(outcome.code for outcome in outcomes)


def _tell(outcomes: Sequence[order.Outcome], *, is_json: bool) -> None:
    if is_json:
        click.echo(json.dumps([row for o in outcomes for row in o.rows()], indent=2))
        return
    for outcome in outcomes:
        for line in outcome.lines():
            click.echo(line)
    for line in order.complaints(outcomes):
        click.echo(line, err=True)


def _drawn_ids() -> Iterator[str]:
    # Short, because people copy them; the engine id makes them unique enough.
    return (f"g-{uuid.uuid4().hex[:8]}" for _ in itertools.count())

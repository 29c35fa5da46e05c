"""`kubediffusion demo`: the command."""

import asyncio
import json
import pathlib
import sys

import click

from kubediffusion.cli import displays, exits, options, worker
from kubediffusion.cli.demo import play, prompts, summary


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    default=pathlib.Path("out", "demo"),
    show_default=True,
    help="Folder for the pictures.",
)
@click.option(
    "--workers",
    "number",
    type=click.IntRange(1, 16),
    default=2,
    show_default=True,
    help="How many workers.",
)
@click.option(
    "--prompts",
    "prompts_path",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    metavar="FILE",
    help="Prompts, one a line.  [default: twelve of ours]",
)
@click.option(
    "--steps",
    type=click.IntRange(2, 1000),
    default=40,
    show_default=True,
    help="Of each generation.",
)
@click.option(
    "--long-steps",
    type=click.IntRange(4, 10_000),
    default=160,
    show_default=True,
    help="Of the generation whose worker is killed.",
)
@click.option("--keep-workers", "is_keeping", is_flag=True, help="Let the workers run on.")
@options.as_json
def demo(
    output: pathlib.Path,
    number: int,
    prompts_path: pathlib.Path | None,
    steps: int,
    long_steps: int,
    is_keeping: bool,
    is_json: bool,
) -> int:
    """Kill an engine and a worker in mid-generation and watch nothing get lost.

    Two workers load a small model and start to draw for an engine. The engine process is
    killed with -9; the workers go on. Another engine with the same id finds them, collects
    what is done and what comes, and saves the pictures. Then one of the workers is killed in
    mid-generation; the other goes on from its checkpoint, and makes the same picture, bit for
    bit, as without the kill. All times are measured.
    """
    worker.check_worker_installed()
    setting = play.Setting(
        output=output,
        workers=number,
        prompts=prompts.read(prompts_path),
        steps=steps,
        long_steps=long_steps,
        is_keeping=is_keeping,
    )
    with displays.choose(is_silent=is_json, is_terse=True, to=sys.stdout) as display:
        try:
            facts = asyncio.run(play.play(setting, display))
        except KeyboardInterrupt:
            play.clean(setting)  # After a failure the logs stay.
            raise
    if is_json:
        click.echo(json.dumps(summary.as_json(facts), indent=2))
    else:
        click.secho("\nWhat happened, as measured:", bold=True)
        click.echo("\n".join(summary.lines(facts)))
        if is_keeping:
            click.echo(f"The workers go on: kubediffusion workers --registry {setting.registry}")
    if not is_keeping:
        play.clean(setting)
    return exits.ExitCode.OK if facts.is_good else exits.ExitCode.FAILED

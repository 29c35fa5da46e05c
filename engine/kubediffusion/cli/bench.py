"""`kubediffusion bench`: runs the benchmarks, which live in the source checkout."""

import os
import pathlib
import subprocess
import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Further options are those of tests/bench/run.py.",
)
@click.argument("arguments", metavar="[ROW]...", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    metavar="FILE",
    help="Write the figures to FILE too.",
)
def bench(arguments: tuple[str, ...], json_path: pathlib.Path | None) -> int:
    """Run the benchmarks, all of them or the rows named (P1, P2 …)."""
    program = find_program(pathlib.Path.cwd(), beside=pathlib.Path(__file__).resolve())
    if program is None:
        raise click.UsageError(
            "the benchmarks are part of the source checkout, not of the installed package:"
            " run this inside a clone of the repository"
        )
    options = ("--json", str(json_path)) if json_path else ()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    return subprocess.call([sys.executable, str(program), *arguments, *options])


def find_program(folder: pathlib.Path, *, beside: pathlib.Path) -> pathlib.Path | None:
    """Find the benchmarks of a checkout.

    Args:
        folder: Within the checkout.
        beside: Likewise, where the package was installed from it in place.
    """
    for root in (folder, *folder.parents, beside, *beside.parents):
        program = root / "tests" / "bench" / "run.py"
        if program.is_file():
            return program
    return None

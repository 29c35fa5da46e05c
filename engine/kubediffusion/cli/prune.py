"""`kubediffusion prune`: makes room in the state folders of engines that do not run."""

import dataclasses
import json
import pathlib
import re
from typing import TYPE_CHECKING

import click

from kubediffusion.cli import exits, options, text
from kubediffusion_wire import errors

if TYPE_CHECKING:
    from kubediffusion import _pruning

_EPILOG = """\b
Examples:
  kubediffusion prune state --dry-run
  kubediffusion prune state --older-than 1d --max-bytes 5GB
  kubediffusion prune state --abandoned 30d"""

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Age(click.ParamType[float]):
    """A time span such as 90s, 12h or 7d; a bare number is seconds."""

    name = "age"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Read it, in seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no age; write 90s, 30m, 12h or 7d", param, ctx)
        return float(match[1]) * _SECONDS[match[2] or "s"]


class Size(click.ParamType[int]):
    """A number of bytes such as 500MB or 5GB; a bare number is bytes."""

    name = "size"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """Read it, in bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?B)?", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size; write 500MB or 5GB", param, ctx)
        return int(float(match[1]) * _BYTES[match[2] or "B"])


@click.command(epilog=_EPILOG)
@click.argument("state_dir", type=click.Path(file_okay=False, path_type=pathlib.Path))
@click.option("--engine-id", default="", metavar="ID", help="This engine's folder only.")
@click.option(
    "--older-than",
    type=Age(),
    default="7d",
    show_default=True,
    metavar="AGE",
    help="Outcomes and results go that long after their generation's end.",
)
@click.option(
    "--max-bytes",
    type=Size(),
    default="20GB",
    show_default=True,
    metavar="SIZE",
    help="Of the results of each engine; the oldest go first.",
)
@click.option(
    "--abandoned",
    type=Age(),
    metavar="AGE",
    help="Delete the whole state of engines that were not used for that long, unfinished "
    "generations and their checkpoints too.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Tell what would go, and delete nothing.")
@options.as_json
def prune(
    state_dir: pathlib.Path,
    engine_id: str,
    older_than: float,
    max_bytes: int,
    abandoned: float | None,
    is_dry: bool,
    is_json: bool,
) -> int:
    """Delete old outcomes, results and stray checkpoints from STATE_DIR.

    A running engine does that for itself: its folder is left alone, and named. Checkpoints of
    unfinished generations stay, as an engine with the same id goes on from them. Ends with
    exit code 1 if a folder could not be pruned for another reason.
    """
    from kubediffusion import _pruning  # Late: it loads SQLite and protobuf.

    retention = _pruning.Retention(
        seconds=older_than, max_bytes=max_bytes, abandoned_seconds=abandoned
    )
    done = [
        _pruning.prune(folder, retention, is_dry=is_dry)
        for folder in _chosen(_pruning.folders(state_dir), engine_id)
    ]
    if is_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in done], indent=2))
    else:
        for row in done:
            click.echo(_line(row, is_dry=is_dry), err=bool(row.problem))
        if not done:
            click.echo(f"There is no engine's state in {str(state_dir)!r}.", err=True)
    is_bad = any(row.problem and not row.is_in_use for row in done)
    return exits.ExitCode.FAILED if is_bad else exits.ExitCode.OK


def _chosen(folders: list[pathlib.Path], engine_id: str) -> list[pathlib.Path]:
    if not engine_id:
        return folders
    chosen = [folder for folder in folders if folder.name.partition("-")[2] == engine_id]
    if not chosen:
        known = ", ".join(folder.name.partition("-")[2] for folder in folders) or "none"
        raise errors.InvalidRequestError.at(
            "--engine-id", f"must have state there ({known}); found {engine_id!r:.80}"
        )
    return chosen


def _line(row: "_pruning.Pruned", *, is_dry: bool) -> str:
    if row.problem:
        return f"{row.engine_id}: left alone: {row.problem}"
    would = "would free" if is_dry else "freed"
    if row.is_removed:
        return f"{row.engine_id}: {would} all of {text.size(row.freed_bytes)}, abandoned"
    told = (
        f"{row.engine_id}: {would} {text.size(row.freed_bytes)} of "
        f"{text.count(row.requests, 'outcome')} and {text.count(row.files, 'file')}; "
        f"{text.size(row.kept_bytes)} stay"
    )
    return f"{told}, {row.unfinished} unfinished" if row.unfinished else told

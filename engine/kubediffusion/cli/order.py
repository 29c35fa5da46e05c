"""What one `kubediffusion generate` is asked to do, and what came of each prompt."""

import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from kubediffusion.cli import exits, fleet, options, requests, text

BACKENDS = ("external", "mp", "uni")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One command, checked."""

    prompts: tuple[str, ...]
    request_ids: tuple[str, ...]
    """One for each prompt."""
    wanted: requests.Wanted
    output: pathlib.Path
    format_name: str
    """A member of `files.FORMATS`."""
    backend: str
    """A member of `BACKENDS`."""
    model: str | None
    num_workers: int
    engine_id: str
    is_detached: bool

    @property
    def num_files(self) -> int:
        """Files that all prompts together make."""
        return len(self.prompts) * (self.wanted.num_outputs or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one prompt."""

    request_id: str
    paths: tuple[pathlib.Path, ...] = ()
    seeds: tuple[int, ...] = ()
    """One for each path."""
    seconds: float = 0.0
    """On the worker, without the queue."""
    worker: str = ""
    error: BaseException | None = None
    is_detached: bool = False

    @property
    def code(self) -> exits.ExitCode:
        """The exit code that this outcome deserves."""
        return exits.ExitCode.OK if self.error is None else exits.code_for(self.error)

    def lines(self) -> Iterator[str]:
        """Write it for people: a line for each file, or the id of what goes on."""
        if self.is_detached:
            yield self.request_id
        for path, seed in zip(self.paths, self.seeds, strict=True):
            yield f"{path}   seed {seed}, {text.seconds(self.seconds)} on {self.worker}"

    def rows(self) -> list[dict[str, Any]]:  # Any: what json.dumps takes.
        """Write it for scripts: a row for each file, or one."""
        common: dict[str, Any] = {"request_id": self.request_id, "worker": self.worker}
        if self.error is not None:
            return [{**common, "error": "\n".join(exits.explain(self.error))}]
        if self.is_detached:
            return [common]
        return [
            {**common, "path": str(path), "seed": seed, "seconds": round(self.seconds, 3)}
            for path, seed in zip(self.paths, self.seeds, strict=True)
        ]


def complaints(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Explain what failed, with its id where several prompts were given."""
    for outcome in outcomes:
        if outcome.error is not None:
            if len(outcomes) > 1:
                yield f"{outcome.request_id}:"
            yield from exits.explain(outcome.error)


def choose_backend(given: str | None, reach: options.Reach, *, is_detached: bool) -> str:
    """Choose where to run: on workers that are there, else on one of our own.

    Raises:
        click.UsageError: The options do not go together.
        kubediffusion_wire.errors.NoWorkerError: None is there, though they are asked for.
    """
    wants_external = given == "external" or is_detached or bool(reach.addresses)
    if given not in (None, "external") and wants_external:
        why = "--detach" if is_detached else "--workers"
        raise click.UsageError(f"{why} needs workers that are there, not --backend {given}")
    if wants_external:
        fleet.some_endpoints(reach)
        return "external"
    return given or ("external" if fleet.endpoints(reach) else "mp")

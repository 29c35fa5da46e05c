"""Options that several commands share."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")

_FILE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which workers are meant, and how to reach them."""

    addresses: tuple[str, ...] = ()
    """Empty: those in the registry."""
    registry: pathlib.Path | None = None
    """None: the user's own."""
    certificate: pathlib.Path | None = None
    key: pathlib.Path | None = None
    authority: pathlib.Path | None = None
    is_insecure: bool = False
    """Allow plaintext to other machines."""

    def __post_init__(self) -> None:
        files = (self.certificate, self.key, self.authority)
        if any(files) and not all(files):
            raise click.UsageError("--tls-cert, --tls-key and --tls-ca go together")


_REACH = (
    click.option(
        "--workers",
        "addresses",
        multiple=True,
        metavar="ADDRESS",
        help="A worker's address, host:port or unix:/path; may be repeated.  "
        "[default: those in the registry]",
    ),
    click.option(
        "--registry",
        type=click.Path(file_okay=False, path_type=pathlib.Path),
        envvar="KUBEDIFFUSION_REGISTRY",
        show_envvar=True,
        metavar="FOLDER",
        help="Where local workers announce themselves.",
    ),
    click.option("--tls-cert", "certificate", type=_FILE, help="Own certificate, PEM."),
    click.option("--tls-key", "key", type=_FILE, help="Own key, PEM."),
    click.option("--tls-ca", "authority", type=_FILE, help="Authority of the workers."),
    click.option(
        "--insecure", "is_insecure", is_flag=True, help="Allow other machines without TLS."
    ),
)


def reach(command: Callable[Concatenate[Reach, P], R]) -> Callable[..., R]:
    """Add the options that say which workers are meant; they arrive as one `Reach`."""
    names = [field.name for field in dataclasses.fields(Reach)]

    @functools.wraps(command)
    def with_reach(*args: P.args, **kwargs: P.kwargs) -> R:
        # Any: each option has been checked by its own type.
        given: dict[str, Any] = {name: kwargs.pop(name) for name in names}
        return command(Reach(**given), *args, **kwargs)

    decorated: Callable[..., R] = with_reach
    for option in reversed(_REACH):
        decorated = option(decorated)
    return decorated


def engine_id(command: Callable[P, R]) -> Callable[P, R]:
    """Add the option that narrows ids to those of one engine."""
    return click.option(
        "--engine-id", default="", metavar="ID", help="Look at this engine's generations only."
    )(command)


def as_json(command: Callable[P, R]) -> Callable[P, R]:
    """Add the option that prints JSON instead of text."""
    return click.option("--json", "is_json", is_flag=True, help="Print JSON, for scripts.")(
        command
    )


def timeout(default: float | None, meaning: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Add the option that bounds how long the command takes.

    Args:
        default: In seconds; None waits for ever.
        meaning: What the user reads.
    """
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=default,
        show_default=default is not None,
        metavar="SECONDS",
        help=meaning,
    )

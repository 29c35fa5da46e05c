"""The command line's root: its commands are imported when they are used."""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass

import click

from kubediffusion.cli import exits


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a command lives, and its line in the group's help."""

    module: str
    attribute: str
    summary: str


COMMANDS: Mapping[str, Source] = {
    "demo": Source(
        module="kubediffusion.cli.demo.command",
        attribute="demo",
        summary="Kill an engine and a worker and watch nothing get lost.",
    ),
    "generate": Source(
        module="kubediffusion.cli.generate",
        attribute="generate",
        summary="Generate images or video from prompts.",
    ),
    "worker": Source(
        module="kubediffusion.cli.worker",
        attribute="worker",
        summary="Start, stop or run workers on this machine.",
    ),
    "workers": Source(
        module="kubediffusion.cli.workers",
        attribute="workers",
        summary="List the workers and their load.",
    ),
    "list": Source(
        module="kubediffusion.cli.generations",
        attribute="list_generations",
        summary="List the generations that workers hold.",
    ),
    "watch": Source(
        module="kubediffusion.cli.watch",
        attribute="watch",
        summary="Follow a generation until it ends.",
    ),
    "fetch": Source(
        module="kubediffusion.cli.fetch",
        attribute="fetch",
        summary="Save the result of a generation.",
    ),
    "cancel": Source(
        module="kubediffusion.cli.generations",
        attribute="cancel",
        summary="Cancel generations.",
    ),
    "pause": Source(
        module="kubediffusion.cli.pausing",
        attribute="pause",
        summary="Park generations; their workers keep them.",
    ),
    "resume": Source(
        module="kubediffusion.cli.pausing",
        attribute="resume",
        summary="Let parked generations go on.",
    ),
    "checkpoint": Source(
        module="kubediffusion.cli.checkpoint",
        attribute="checkpoint",
        summary="Take a checkpoint of a generation and look at it.",
    ),
    "drain": Source(
        module="kubediffusion.cli.drain",
        attribute="drain",
        summary="Empty a worker; what it had goes on elsewhere.",
    ),
    "undrain": Source(
        module="kubediffusion.cli.drain",
        attribute="undrain",
        summary="Let a drained worker take work again.",
    ),
    "prune": Source(
        module="kubediffusion.cli.prune",
        attribute="prune",
        summary="Delete old results and outcomes of engines that do not run.",
    ),
    "bench": Source(
        module="kubediffusion.cli.bench",
        attribute="bench",
        summary="Run the benchmarks of a source checkout.",
    ),
    "completion": Source(
        module="kubediffusion.cli.completion",
        attribute="completion",
        summary="Print a shell's completion script.",
    ),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def __init__(self, *, sources: Mapping[str, Source], summary: str, epilog: str) -> None:
        super().__init__(
            name="kubediffusion",
            help=summary,
            epilog=epilog,
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )
        self._sources = sources

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Answer the names in the order of the table, which is the order of use."""
        return list(self._sources)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and answer the command."""
        source = self._sources.get(cmd_name)
        if source is None:
            return None
        command: click.Command = getattr(importlib.import_module(source.module), source.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, s.summary) for name, s in self._sources.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog as it stands; click would join its lines."""
        formatter.write(f"\n{self.epilog}\n")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names.

        Raises:
            click.UsageError: There is none; the nearest names are in the message.
        """
        if args[0] not in self._sources and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self._sources, n=2)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


root = LazyGroup(
    sources=COMMANDS,
    summary="Generate with diffusion workers that outlive the engine.",
    epilog=exits.EPILOG,
)


def _print_version(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if not is_asked or context.resilient_parsing:
        return
    # importlib.metadata costs 15 ms: only those who ask pay.
    import importlib.metadata

    click.echo(f"kubediffusion {importlib.metadata.version('kubediffusion')}")
    context.exit()


root.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_print_version,
        help="Show the version and exit.",
    )
)

"""`kubediffusion worker`: workers on this machine that belong to nobody's engine."""

import asyncio
import contextlib
import importlib.util
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import click

from kubediffusion.cli import (
    exits,
    fleet,
    launch,
    observations,
    options,
    processes,
    readiness,
    text,
)
from kubediffusion.executors import machine
from kubediffusion_wire import errors, registry, validation

_registry_option = click.option(
    "--registry",
    "given_folder",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    envvar="KUBEDIFFUSION_REGISTRY",
    show_envvar=True,
    metavar="FOLDER",
    help="Where the workers announce themselves.",
)

_LOOK_SECONDS = 0.5
"""Between two looks at workers in the foreground."""

_STOP_SECONDS = 60.0
"""For workers to end; their own default budget is 25."""

_QUIET_SECONDS = 2.0
"""A worker without work ends within; of one that takes longer the user is told."""


@click.group()
def worker() -> None:
    """Start, stop or run workers on this machine."""


@worker.command(
    short_help="Start workers that outlive this command.",
    context_settings={"ignore_unknown_options": True},
    epilog="WORKER_FLAGS are those that `kubediffusion worker run --help` shows.",
)
@click.option(
    "-n", "--number", type=click.IntRange(1, 256), default=1, show_default=True, help="How many."
)
@click.option(
    "--model", default="demo", show_default=True, help='Local folder, hub id, or "demo".'
)
@click.option(
    "--name", metavar="NAME", help="NAME of one, NAME-1, NAME-2 … of several.  [default: worker-…]"
)
@_registry_option
@click.option("--foreground", is_flag=True, help="Stay until Ctrl-C, which stops the workers.")
@options.timeout(600.0, "The models must be loaded after this long.")
@options.as_json
@click.argument("worker_flags", metavar="[WORKER_FLAGS]...", nargs=-1, type=click.UNPROCESSED)
def start(
    number: int,
    model: str,
    name: str | None,
    given_folder: pathlib.Path | None,
    foreground: bool,
    timeout: float,
    is_json: bool,
    worker_flags: tuple[str, ...],
) -> int:
    """Start workers that outlive this command and every engine.

    Each gets a Unix socket and a log in the registry folder, and its share of GPUs or
    cores. The command returns when all of them serve.
    """
    check_worker_installed()
    folder = fleet.folder(options.Reach(registry=given_folder))
    plans = launch.plan(
        choose_names(folder, number, name),
        folder=folder,
        model=model,
        arguments=worker_flags,
        shared=machine.this_one(),
    )
    with _stopped_on_failure() as started:
        for plan in plans:
            started.append(launch.start(plan))
            click.echo(f"{plan.name}: starting, log in {plan.log}", err=True)
        views = asyncio.run(readiness.wait_serving(started, timeout=timeout, on_serving=_tell))
        if is_json:
            click.echo(json.dumps([observations.as_json(view) for view in views], indent=2))
    return _stay(started) if foreground else exits.ExitCode.OK


def check_worker_installed() -> None:
    """Return if a worker can be started with this Python.

    Raises:
        click.ClickException: Its libraries are not installed.
    """
    for module in ("torch", "diffusers"):
        if importlib.util.find_spec(module) is None:
            raise click.ClickException(
                f"a worker needs {module}, which is not installed:"
                " pip install 'kubediffusion[worker]'"
            )


def choose_names(folder: pathlib.Path, number: int, given: str | None) -> tuple[str, ...]:
    """Choose names that no worker in the registry has.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: The given name is none, or taken.
    """
    registry.check_name(f"{given or 'worker'}-1")
    taken = {entry.name for entry in registry.read(folder)}
    if given is None or number > 1:
        return launch.free_names(taken, number, given or "worker")
    if given in taken:
        raise errors.InvalidRequestError(f"there is a worker {given!r} already")
    return (given,)


def _tell(view: observations.WorkerView) -> None:
    click.echo(
        f"{view.name}: serves {view.model} on {view.device} at {view.address}"
        f" (pid {view.process_id}) after {text.seconds(view.uptime_seconds or 0.0)}",
        err=True,
    )


@contextlib.contextmanager
def _stopped_on_failure() -> Iterator[list[launch.Started]]:
    """Leave no worker of a start that failed or was interrupted."""
    started: list[launch.Started] = []
    try:
        yield started
    except BaseException:
        for item in started:
            item.process.kill()
            item.process.wait()
        raise


def _stay(started: Sequence[launch.Started]) -> int:
    """Stay until the workers have ended, or end them when somebody asks this process to end."""
    click.echo("Ctrl-C stops them.", err=True)
    # As under a supervisor, which sends SIGTERM.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    left, code = list(started), exits.ExitCode.OK
    try:
        while left:
            time.sleep(_LOOK_SECONDS)
            for item in list(left):
                status = item.process.poll()
                if status is not None:
                    left.remove(item)
                    code = exits.ExitCode.FAILED if status else code
                    click.echo(launch.obituary(item.plan, status), err=True)
    except KeyboardInterrupt:
        click.echo("Stopping.", err=True)
        _stop([item.process.pid for item in left], timeout=_STOP_SECONDS, is_killing=True)
        raise
    return code


def _complete_name(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    folder = fleet.folder(options.Reach(registry=context.params.get("given_folder")))
    return [e.name for e in registry.read(folder) if e.name.startswith(incomplete)]


@worker.command(short_help="Stop workers.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=_complete_name)
@click.option("--all", "is_all", is_flag=True, help="All workers in the registry.")
@_registry_option
@click.option("--kill", "is_killing", is_flag=True, help="Kill those left after --timeout.")
@options.timeout(_STOP_SECONDS, "They must have ended after this long.")
@options.as_json
def stop(
    names: tuple[str, ...],
    is_all: bool,
    given_folder: pathlib.Path | None,
    is_killing: bool,
    timeout: float,
    is_json: bool,
) -> int:
    """Stop workers: they finish what they run, keep results until fetched, and end.

    Without a NAME it stops the one worker that there is.
    """
    if names and is_all:
        raise click.UsageError("--all leaves no names to say")
    folder = fleet.folder(options.Reach(registry=given_folder))
    entries = choose(registry.read(folder), names)
    if not entries:
        click.echo(f"No worker is announced in {str(folder)!r}.", err=True)
    if len(entries) > 1 and not names and not is_all:
        known = ", ".join(entry.name for entry in entries)
        raise click.UsageError(f"there are several workers ({known}): name some, or say --all")
    left = _stop([entry.pid for entry in entries], timeout=timeout, is_killing=is_killing)
    rows = [{"name": e.name, "pid": e.pid, "is_stopped": e.pid not in left} for e in entries]
    if is_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            state = "stopped" if row["is_stopped"] else "still running"
            click.echo(f"{row['name']}: {state} (pid {row['pid']})")
    if left:
        click.echo(f"not ended after {timeout:g} s; --kill would end them", err=True)
    return exits.ExitCode.TIMEOUT if left else exits.ExitCode.OK


def choose(entries: Sequence[registry.Entry], names: Sequence[str]) -> tuple[registry.Entry, ...]:
    """Choose workers by name, or all where none is named.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: There is no such worker; the nearest
            names are in the message.
    """
    by_name = {entry.name: entry for entry in entries}
    for name in names:
        if name not in by_name:
            near = validation.nearest(name, by_name)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise errors.InvalidRequestError(f"there is no worker {name!r}{hint}")
    return tuple(by_name[name] for name in dict.fromkeys(names)) or tuple(entries)


def _stop(process_ids: Sequence[int], *, timeout: float, is_killing: bool) -> tuple[int, ...]:
    processes.send(process_ids, signal.SIGTERM)
    left = processes.wait_ended(process_ids, timeout=min(timeout, _QUIET_SECONDS))
    if left:
        pids = ", ".join(map(str, left))
        click.echo(
            f"waiting for what they run, and for results to be fetched (pid {pids})", err=True
        )
        left = processes.wait_ended(left, timeout=timeout - _QUIET_SECONDS)
    if left and is_killing:
        processes.send(left, signal.SIGKILL)
        left = processes.wait_ended(left, timeout=timeout)
    return left


@worker.command(
    short_help="Be a worker, in the foreground.",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("worker_flags", metavar="[WORKER_FLAGS]...", nargs=-1, type=click.UNPROCESSED)
def run(worker_flags: tuple[str, ...]) -> None:
    """Be a worker, in the foreground: the same as `kubediffusion-worker`."""
    check_worker_installed()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "kubediffusion_worker", *worker_flags])

"""The demo's workers: started apart from any engine, and gone when the demo is."""

import contextlib
import os
import pathlib
import signal
from collections.abc import Iterator, Sequence

from kubediffusion.cli import launch, processes
from kubediffusion.executors import machine
from kubediffusion_wire import errors, registry

_END_SECONDS = 15.0
"""In which workers that have nothing left to do end by themselves."""


@contextlib.contextmanager
def workers(
    number: int, *, folder: pathlib.Path, is_kept: bool
) -> Iterator[tuple[launch.Started, ...]]:
    """Start workers with the demo model, and end them with the context.

    Args:
        number: How many.
        folder: Their registry.
        is_kept: Let them go on after a context that ends well.
    """
    plans = launch.plan(
        launch.free_names((), number, "worker"),
        folder=folder,
        model="demo",
        # One after the other, so that some are done while others have not begun.
        arguments=("--slots", "1"),
        shared=machine.this_one(),
    )
    # The workers hold the reading end of a pipe whose writing end is ours alone: were this
    # process itself killed with -9, they would see the pipe's end and stop.
    reading, writing = (None, None) if is_kept else os.pipe()
    started: list[launch.Started] = []
    try:
        for plan in plans:
            started.append(_start(plan, reading))
        yield tuple(started)
    except BaseException:
        processes.send([item.process.pid for item in started], signal.SIGKILL)
        raise
    else:
        if not is_kept:
            _end(started)
    finally:
        for descriptor in (reading, writing):
            if descriptor is not None:
                os.close(descriptor)
        if not is_kept:
            for item in started:
                item.process.wait()


def _start(plan: launch.WorkerPlan, parent: int | None) -> launch.Started:
    if parent is None:
        return launch.start(plan)
    return launch.start(plan, "--parent-fd", str(parent), pass_fds=[parent])


def _end(started: Sequence[launch.Started]) -> None:
    process_ids = [item.process.pid for item in started]
    processes.send(process_ids, signal.SIGTERM)
    left = processes.wait_ended(process_ids, timeout=_END_SECONDS)
    processes.send(left, signal.SIGKILL)


def check_nobody_left(folder: pathlib.Path) -> None:
    """Return if no worker of an earlier demo, started with --keep-workers, is alive.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: One is.
    """
    if registry.read(folder):
        raise errors.InvalidRequestError(
            "workers of an earlier demo are still running: stop them with"
            f" `kubediffusion worker stop --all --registry {folder}`"
        )

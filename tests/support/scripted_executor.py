"""Executors over scripted workers, and a program that is an engine process with them."""

import json
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

import kubediffusion._config as _config
import scripted_worker
from kubediffusion import _loop, _respawn
from kubediffusion._links import protocol
from kubediffusion.executors import linked, multiproc

Links = tuple[protocol.WorkerLink, ...]

PATIENCE = 60.0
"""Seconds; only ever waited for on failure."""


class ScriptedExecutor(multiproc.MultiProcDiffusionExecutor):
    """Starts scripted workers in place of real ones."""

    program = (sys.executable, str(pathlib.Path(scripted_worker.__file__)))
    policy = _respawn.RespawnPolicy(first_delay=0.01, max_delay=0.05, max_deaths=4)
    grace = 10.0


class FakeExecutor(ScriptedExecutor):
    """Starts the real worker program with a pipeline that has no model."""

    program = (sys.executable, "-m", "kubediffusion_worker.testing")


class RudeExecutor(ScriptedExecutor):
    """Waits only a moment for workers to end by themselves."""

    grace = 0.2


def config(model: str = "ok", **options: Any) -> _config.OmniDiffusionConfig:
    """Returns a configuration whose model is a scripted worker's behaviour."""
    return _config.OmniDiffusionConfig(
        model=model, **{"start_timeout": PATIENCE, "engine_id": "e", **options}
    )


@contextmanager
def started(executor: linked.LinkedExecutor) -> Iterator[linked.LinkedExecutor]:
    """Starts an executor on a loop of its own, and shuts both down."""
    loop = _loop.EngineLoop()
    try:
        executor.start(loop)
        yield executor
    finally:
        executor.shutdown()
        loop.close()


def wait_for_links(
    executor: linked.LinkedExecutor, check: Callable[[Links], bool] = bool
) -> Links:
    """Waits until the executor's links are as wanted, and returns them."""

    async def follow() -> Links:
        async for links in executor.links().changes():
            if check(links):
                return links
        raise AssertionError("the executor was shut down")

    loop = _loop.EngineLoop()
    try:
        return loop.run(follow(), PATIENCE)
    finally:
        loop.close()


def pids(executor: linked.LinkedExecutor) -> list[int]:
    """Returns the process ids of the workers by rank."""
    if isinstance(executor, FakeExecutor):
        answers = executor.collective_rpc("describe", timeout=PATIENCE)
        return [answer["process_id"] for answer in answers]
    return [answer["pid"] for answer in executor.collective_rpc("identity", timeout=PATIENCE)]


def wait_until_ended(process_ids: list[int]) -> None:
    """Waits until processes have ended, children of this process or not."""
    processes = [psutil.Process(pid) for pid in process_ids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    left = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left


def main() -> None:
    """Is an engine process: tells its workers' pids and waits to be killed.

    With the argument "fork" a forked child lives on with all that the engine had open; with
    "fake" the workers are the real program.
    """
    is_fake = "fake" in sys.argv
    executor = (FakeExecutor if is_fake else ScriptedExecutor)(config(num_gpus=2))
    executor.start(_loop.EngineLoop())
    workers = pids(executor)
    child = 0
    if "fork" in sys.argv:
        child = os.fork()
        if child == 0:
            signal.pause()
    print(json.dumps({"workers": workers, "child": child}), flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    main()

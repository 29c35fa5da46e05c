"""P5 and P6: what it takes to notice that a worker is dead or silent, and to go on elsewhere."""

import contextlib
import os
import pathlib
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence

import figures
import processes

import kubediffusion

_STEP = 0.05
_WATCHED_STEPS = 60
"""Three seconds, so that the policy of one checkpoint each 2 s has taken one."""


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Kills and stops the worker of a generation."""
    rounds = 1 if settings.is_quick else 3
    killed = [_kill(number) for number in range(rounds)]
    busy = [_stop(number, is_busy=True) for number in range(rounds)]
    idle = [_stop(number, is_busy=False) for number in range(rounds)]
    return [
        figures.Figure(
            row="P5",
            what="kill -9 of a worker to the first new step on another",
            value=max(seconds for seconds, _ in killed),
            unit="s",
            goal=1.5 + 2.0,
            baseline=f"at most {max(lost for _, lost in killed):.2f} s of work done again; its "
            "checkpoints are 2 s apart",
            samples=rounds,
        ),
        _noticed("a stopped worker is noticed, with events flowing", busy, goal=6.0),
        _noticed("a stopped worker is noticed, idle", idle, goal=15.5),
    ]


def _noticed(what: str, seconds: Sequence[float], *, goal: float) -> figures.Figure:
    return figures.Figure(
        row="P6",
        what=what,
        value=max(seconds),
        unit="s",
        goal=goal,
        baseline=f"median {statistics.median(seconds):.1f} s",
        samples=len(seconds),
    )


@contextlib.contextmanager
def _engine(name: str) -> Iterator[kubediffusion.DiffusionEngine]:
    """Runs an engine over two workers with a pipeline that sleeps."""
    with tempfile.TemporaryDirectory(prefix="kd-bench-") as folder:
        registry = pathlib.Path(folder) / "registry"
        options = ("--model", "sleeping", "--registry", str(registry), "--grace", "0")
        with (
            processes.workers(processes.BENCH_WORKER, *options, count=2),
            kubediffusion.DiffusionEngine(
                distributed_executor_backend="external_launcher",
                discovery="registry",
                registry=registry,
                engine_id=name,
            ) as engine,
        ):
            while sum(worker.state == "serving" for worker in engine.workers()) < 2:
                time.sleep(0.1)
            yield engine


def _begin(engine: kubediffusion.DiffusionEngine) -> kubediffusion.Generation:
    return engine.submit(
        kubediffusion.OmniDiffusionRequest(
            "noise",
            height=8,
            width=8,
            num_inference_steps=600,
            extra_args={"step_seconds": _STEP},
        )
    )


def _kill(number: int) -> tuple[float, float]:
    """Returns seconds to the first new step, and seconds of work that was lost."""
    with _engine(f"bench-kill-{number}") as engine:
        generation = _begin(engine)
        events = generation.events()
        last = next(event.step for event in events if event.step >= _WATCHED_STEPS)
        os.kill(_pid(engine, generation.worker), signal.SIGKILL)
        killed, resumed = time.perf_counter(), -1
        for event in events:
            if event.kind == "resumed":
                resumed = event.step
            elif event.kind == "progress" and resumed < 0:
                last = event.step  # It was under way when the worker was killed.
            elif event.kind == "progress" and event.step > last:
                return time.perf_counter() - killed, (last - resumed) * _STEP
    raise RuntimeError("the generation ended before its worker was killed")


def _stop(number: int, *, is_busy: bool) -> float:
    """Returns seconds until the engine knows that a worker does not answer."""
    with _engine(f"bench-stop-{number}-{is_busy}") as engine:
        name = engine.workers()[0].name
        if is_busy:
            generation = _begin(engine)
            next(event for event in generation.events() if event.kind == "progress")
            name = generation.worker
        pid = _pid(engine, name)
        os.kill(pid, signal.SIGSTOP)
        stopped = time.perf_counter()
        try:
            while any(each.name == name and _is_reached(each) for each in engine.workers()):
                time.sleep(0.02)
            return time.perf_counter() - stopped
        finally:
            os.kill(pid, signal.SIGCONT)


def _is_reached(worker: kubediffusion.WorkerInfo) -> bool:
    return worker.state != "unreachable"


def _pid(engine: kubediffusion.DiffusionEngine, name: str) -> int:
    return next(worker.process_id for worker in engine.workers() if worker.name == name)

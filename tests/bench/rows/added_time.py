"""P1: what serving adds to a request, against the same pipeline called in this process."""

import itertools
import statistics
import time
from collections.abc import Sequence

import bench_worker
import figures
import processes
import torch

import kubediffusion

_SIDES = {"0.5 MB image": (416, 10.0), "3 MB image": (1024, 15.0), "16 MB image": (2360, 45.0)}
_SEEDS = itertools.count(1)


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Takes ten steps of 10 ms, then returns an image, over plaintext TCP."""
    pipeline = bench_worker.sleeping_pipeline()
    with (
        processes.workers(
            processes.BENCH_WORKER, "--model", "sleeping", over_tcp=True
        ) as addresses,
        kubediffusion.DiffusionEngine(
            kubediffusion.OmniDiffusionConfig(
                distributed_executor_backend="external_launcher",
                workers=addresses,
                engine_id="bench-added-time",
            )
        ) as engine,
    ):
        return [_figure(settings, engine, pipeline, *item) for item in _SIDES.items()]


def _figure(
    settings: figures.Settings,
    engine: kubediffusion.DiffusionEngine,
    pipeline: bench_worker.SleepingPipeline,
    what: str,
    side_and_goal: tuple[int, float],
) -> figures.Figure:
    side, goal = side_and_goal

    def served() -> float:
        request = kubediffusion.OmniDiffusionRequest(
            "noise", height=side, width=side, seed=next(_SEEDS)
        )
        started = time.perf_counter()
        engine.step([request])[0].images[0].load()
        return time.perf_counter() - started

    def plain() -> float:
        generator = torch.Generator("cpu").manual_seed(next(_SEEDS))
        started = time.perf_counter()
        pipeline(height=side, width=side, generator=generator).images[0].load()
        return time.perf_counter() - started

    through, direct = figures.in_turns([served, plain], settings.rounds * 3)
    return figures.Figure(
        row="P1",
        what=f"added to a request with a {what}",
        value=1000 * figures.median_difference(through, direct),
        unit="ms",
        goal=goal,
        baseline=f"the pipeline alone {1000 * statistics.median(direct):.0f} ms",
        samples=len(direct),
    )

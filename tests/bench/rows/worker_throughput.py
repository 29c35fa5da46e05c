"""P9: images per second of one worker per core, against plain diffusers processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import figures
import processes

import kubediffusion
from kubediffusion_worker import demo

_PLAIN = """
import json, sys, time, torch, diffusers
torch.set_num_threads(1)
pipeline = diffusers.DiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
pipeline.set_progress_bar_config(disable=True)
def image(seed, steps):
    generator = torch.Generator("cpu").manual_seed(seed)
    return pipeline("a red circle on a blue background", num_inference_steps=steps,
                    generator=generator).images[0]
image(0, 2)
print("ready", flush=True)
for line in sys.stdin:
    count, steps = json.loads(line)
    for seed in range(count):
        image(seed, steps)
    print("done", flush=True)
"""
_STEPS = 10


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Makes images of the demo model on all cores both ways, in turns."""
    cores = os.cpu_count() or 1
    each = 1 if settings.is_quick else 2
    plain = [_PlainProcess() for _ in range(cores)]
    try:
        with (
            processes.workers(
                processes.WORKER, "--model", "demo", "--threads", "1", count=cores
            ) as addresses,
            kubediffusion.DiffusionEngine(
                kubediffusion.OmniDiffusionConfig(
                    distributed_executor_backend="external_launcher",
                    workers=addresses,
                    engine_id="bench-throughput",
                )
            ) as engine,
        ):
            served, direct = figures.in_turns(
                [_served(engine, cores * each), lambda: _plain(plain, each)], settings.rounds
            )
    finally:
        for process in plain:
            process.close()
    return [
        figures.Figure(
            row="P9",
            what=f"throughput of {cores} workers, times that of {cores} plain processes",
            value=figures.median_ratio(direct, served),
            unit="x",
            goal=0.97,
            is_lower_better=False,
            baseline=f"{cores * each} images of {_STEPS} steps a round",
            samples=len(served),
        )
    ]


def _served(engine: kubediffusion.DiffusionEngine, count: int) -> Callable[[], float]:
    def once() -> float:
        requests = [
            kubediffusion.OmniDiffusionRequest(
                "a red circle on a blue background", seed=seed, num_inference_steps=_STEPS
            )
            for seed in range(count)
        ]
        started = time.perf_counter()
        for output in engine.step(requests):
            output.images[0].load()
        return time.perf_counter() - started

    return once


class _PlainProcess:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PLAIN, str(demo.model_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=processes.environment(),
        )
        self.wait()

    def begin(self, count: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([count, _STEPS]) + "\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("a plain diffusers process has ended")

    def close(self) -> None:
        self._process.communicate()


def _plain(plain: Sequence[_PlainProcess], each: int) -> float:
    started = time.perf_counter()
    for process in plain:
        process.begin(each)
    for process in plain:
        process.wait()
    return time.perf_counter() - started

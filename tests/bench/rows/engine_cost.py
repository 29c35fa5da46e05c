"""P11: what a request costs the engine itself, and whether its memory stays flat."""

import gc
import os
import pathlib
import statistics
import time
from collections.abc import Sequence

import figures
import processes

import kubediffusion

_WORKERS = 8
_BATCH = 1000


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Puts batches of 1000 requests before eight workers whose pipelines do nothing."""
    batches = 2 if settings.is_quick else 10
    with (
        processes.workers(processes.FAKE_WORKER, "--model", "fake", count=_WORKERS) as addresses,
        kubediffusion.DiffusionEngine(
            kubediffusion.OmniDiffusionConfig(
                distributed_executor_backend="external_launcher",
                workers=addresses,
                engine_id="bench-cost",
            )
        ) as engine,
    ):
        seconds, memory = zip(*(_batch(engine) for _ in range(batches)), strict=True)
    return [
        figures.Figure(
            row="P11",
            what=f"engine's CPU time per request, {_BATCH} at once on {_WORKERS} workers",
            value=1000 * statistics.median(seconds) / _BATCH,
            unit="ms",
            goal=3,
            baseline=f"slowest batch {1000 * max(seconds) / _BATCH:.2f} ms",
            samples=batches,
        ),
        figures.Figure(
            row="P11",
            what=f"engine's memory after {batches * _BATCH} requests, beyond that after "
            f"{_BATCH * (batches // 2)}",
            value=(memory[-1] - memory[batches // 2 - 1]) / 1e6,
            unit="MB",
            baseline=f"resident {memory[-1] / 1e6:.0f} MB at the end",
            samples=batches,
        ),
    ]


def _batch(engine: kubediffusion.DiffusionEngine) -> tuple[float, int]:
    requests = [
        kubediffusion.OmniDiffusionRequest("noise", num_inference_steps=4) for _ in range(_BATCH)
    ]
    started = time.process_time()
    outputs = engine.step(requests)
    seconds = time.process_time() - started
    assert all(output.finished for output in outputs)
    del outputs
    gc.collect()
    return seconds, _resident_bytes()


def _resident_bytes() -> int:
    pages = pathlib.Path("/proc/self/statm").read_text("utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

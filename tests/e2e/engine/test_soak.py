"""Many requests through one engine and worker processes, without a leak at either end."""

import contextlib
import gc
import os
from collections.abc import Sequence

import psutil

import kubediffusion
import served

REQUESTS = int(os.environ.get("KUBEDIFFUSION_SOAK_REQUESTS", "2000"))
"""A run with 10000 is the long version."""

BATCH = 250
WARM_UP = 2 * BATCH
MAX_GROWTH = 12_000_000
"""Bytes: tombstones, allocators and rounding. Every leaked result would add 20 kB."""


def soak(engine: kubediffusion.DiffusionEngine, count: int) -> None:
    for _ in range(count // BATCH):
        outputs = engine.step(
            [
                kubediffusion.OmniDiffusionRequest(
                    "p", num_inference_steps=3, height=80, width=80, seed=1
                )
                for _ in range(BATCH)
            ]
        )
        assert all(output.finished and not output.error for output in outputs)
        del outputs
    gc.collect()


def sizes(processes: Sequence[psutil.Process]) -> list[tuple[int, int]]:
    """Returns resident bytes and open files of each process."""
    return [(process.memory_info().rss, process.num_fds()) for process in processes]


def test_memory_and_files_stay_flat_over_thousands_of_requests() -> None:
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(served.a_process("--name", name, "--log-level", "error"))
            for name in ("a", "b")
        ]
        processes = [
            psutil.Process(),
            *(psutil.Process(worker.process.pid) for worker in workers),
        ]
        engine = stack.enter_context(
            kubediffusion.DiffusionEngine(
                distributed_executor_backend="external_launcher",
                workers=[worker.address for worker in workers],
                engine_id="soak",
                result_cache_bytes=1_000_000,
            )
        )
        soak(engine, WARM_UP)
        before = sizes(processes)
        soak(engine, REQUESTS - WARM_UP)
        for (memory, files), (memory_before, files_before) in zip(
            sizes(processes), before, strict=True
        ):
            assert memory - memory_before < MAX_GROWTH
            assert files - files_before < 10

"""P15: how soon a worker process answers, beside an import of torch."""

import asyncio
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import figures
import processes

from kubediffusion._links import remote


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Starts workers and, in turns, processes that import torch."""
    started, imported = figures.in_turns([_start_worker, _import_torch], settings.rounds)
    return [
        figures.Figure(
            row="P15",
            what="worker's start until gRPC answers, beyond an import of torch",
            value=1000 * figures.median_difference(started, imported),
            unit="ms",
            goal=300,
            baseline=(
                f"worker {1000 * statistics.median(started):.0f} ms, "
                f"import torch {1000 * statistics.median(imported):.0f} ms"
            ),
            samples=len(started),
        )
    ]


def _start_worker() -> float:
    begun = time.perf_counter()
    with processes.workers(processes.WORKER, "--model", "demo") as addresses:
        asyncio.run(_ask(addresses[0]))
        return time.perf_counter() - begun


async def _ask(address: str) -> None:
    link = remote.RemoteLink("bench", address)
    try:
        await link.get_worker()
    finally:
        await link.close()


def _import_torch() -> float:
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-c", "import torch"], cwd=pathlib.Path(folder), check=True
        )
    return time.perf_counter() - begun

"""P4: from the start of a new engine process to the first event of a running generation."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import figures
import processes

import kubediffusion

_PROGRAM = """
import sys, time
from kubediffusion import DiffusionEngine, OmniDiffusionConfig
engine = DiffusionEngine(OmniDiffusionConfig(
    distributed_executor_backend="external_launcher", workers=[sys.argv[1]],
    engine_id="bench-restart", state_dir=sys.argv[2] or None))
for event in engine.generation("long").events():
    print(time.time(), flush=True)
    break
engine.close()
"""
_BASELINE = "import time, grpc.aio; print(time.time(), flush=True)"


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Starts engine processes with one engine id, while a generation goes on."""
    with processes.workers(processes.FAKE_WORKER, "--model", "fake") as addresses:
        with kubediffusion.DiffusionEngine(
            kubediffusion.OmniDiffusionConfig(
                distributed_executor_backend="external_launcher",
                workers=addresses,
                engine_id="bench-restart",
            )
        ) as engine:
            engine.submit(
                kubediffusion.OmniDiffusionRequest(
                    "noise",
                    request_id="long",
                    num_inference_steps=1000,
                    extra_args={"step_seconds": 0.2},
                )
            )
        attached, imported = figures.in_turns(
            [
                lambda: _until_printed(_PROGRAM, addresses[0], ""),
                lambda: _until_printed(_BASELINE),
            ],
            settings.rounds,
        )
    return [
        figures.Figure(
            row="P4",
            what="engine restart: process start to first replayed event",
            value=1000 * statistics.median(attached),
            unit="ms",
            goal=300,
            baseline=f"Python and import grpc.aio {1000 * statistics.median(imported):.0f} ms",
            samples=len(attached),
        )
    ]


def _until_printed(program: str, *arguments: str) -> float:
    started = time.time()
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return float(run.stdout.split()[0]) - started

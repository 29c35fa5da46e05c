"""Many requests through one engine and worker processes, without a leak at either end."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import served
import soak_program

REQUESTS = int(os.environ.get("KUBEDIFFUSION_SOAK_REQUESTS", "1500"))
"""After the warm-up; a run with 10000 is the long version."""

WARM_UP = 500 if REQUESTS < 5000 else 9000
"""In the long version until the 4096 tombstones of each worker are full."""

MAX_GROWTH = 35_000_000
"""Bytes: tombstones, and pages that allocators keep. Leaked results are 77 kB each, which is
57 MB in each worker and 115 MB in the engine."""

PATIENCE = 250.0 + REQUESTS / 10


def test_memory_and_files_stay_flat_over_thousands_of_requests() -> None:
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(served.a_process("--name", name, "--log-level", "error"))
            for name in ("a", "b")
        ]
        task = {
            "addresses": [worker.address for worker in workers],
            "pids": [worker.process.pid for worker in workers],
            "warm_up": WARM_UP,
            "requests": REQUESTS,
        }
        program = str(pathlib.Path(soak_program.__file__))
        answer = subprocess.check_output(
            [sys.executable, program, json.dumps(task)], timeout=PATIENCE
        )
        for (memory_before, files_before), (memory, files) in zip(
            *json.loads(answer.splitlines()[-1]), strict=True
        ):
            assert memory - memory_before < MAX_GROWTH
            assert files - files_before < 10

"""Worker processes to measure with."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

BENCH_WORKER = (str(pathlib.Path(__file__).with_name("bench_worker.py")),)
FAKE_WORKER = ("-m", "kubediffusion_worker.testing")
WORKER = ("-m", "kubediffusion_worker")


def environment(threads: int = 1) -> dict[str, str]:
    """Returns the environment of a process that computes with so many threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "GRPC_VERBOSITY": "NONE"}


@contextlib.contextmanager
def workers(
    program: Sequence[str], *arguments: str, count: int = 1, over_tcp: bool = False
) -> Iterator[list[str]]:
    """Runs worker processes and returns their addresses; they may still load their model."""
    with (
        tempfile.TemporaryDirectory(prefix="kd-bench-") as folder,
        contextlib.ExitStack() as stack,
    ):
        addresses = []
        for index in range(count):
            listen = "127.0.0.1:0" if over_tcp else f"unix:{folder}/{index}.sock"
            addresses.append(
                stack.enter_context(
                    _worker(program, "--listen", listen, "--name", f"bench-{index}", *arguments)
                )
            )
        yield addresses


@contextlib.contextmanager
def _worker(program: Sequence[str], *arguments: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, *program, "--registry", "none", "--log-level", "error", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with exit code {process.wait()}")
        yield json.loads(line)["address"]
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

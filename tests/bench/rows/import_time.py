"""P14: what `import kubediffusion` costs a program that is about to use an engine."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import figures

_PROGRAM = """
import sys, time
started = time.perf_counter()
{statement}
print(time.perf_counter() - started)
print(",".join(sorted({{"torch", "diffusers", "kubernetes", "kopf"}} & set(sys.modules))))
"""
_PUBLIC = "from kubediffusion import DiffusionEngine, OmniDiffusionConfig, OmniDiffusionRequest"


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Imports in fresh processes, beside an import of grpc alone."""
    package, public, grpc = figures.in_turns(
        [_seconds("import kubediffusion"), _seconds(_PUBLIC), _seconds("import grpc.aio")],
        settings.rounds,
    )
    beside = f"import grpc.aio {1000 * statistics.median(grpc):.0f} ms; no torch, no kubernetes"
    return [
        figures.Figure(
            row="P14",
            what=what,
            value=1000 * statistics.median(numbers),
            unit="ms",
            goal=150,
            baseline=beside,
            samples=len(numbers),
        )
        for what, numbers in (
            ("import kubediffusion", package),
            ("import DiffusionEngine, config and request", public),
        )
    ]


def _seconds(statement: str) -> Callable[[], float]:
    program = _PROGRAM.format(statement=statement)

    def once() -> float:
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        seconds, _, heavy = run.stdout.strip().partition("\n")
        if heavy:
            raise AssertionError(f"{statement!r} imports {heavy}")
        return float(seconds)

    return once

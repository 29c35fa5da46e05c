"""What a row of the benchmark reports, and how it is measured.

Machines differ and are noisy, so a figure that is compared has both of its sides measured in
turns in one run, and the medians are what counts.
"""

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number beside its goal."""

    row: str
    """Of the goals in docs/reference/performance.md, for example "P1"."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    """In the same unit; None where nothing is promised."""

    is_lower_better: bool = True
    baseline: str = ""
    """What stood beside it in the same run, in words and numbers."""

    samples: int = 1

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.is_lower_better else self.value >= self.goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured."""

    rounds: int = 7
    """Of each side of a comparison."""

    is_quick: bool = False
    """Fewer and shorter rounds: shows that every row works, not what it costs."""


def in_turns(sides: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Measures several sides alternately, so that a change of load meets all of them.

    Args:
        sides: Each measures once and returns the number.
        rounds: Of each side, after one round that warms up and is dropped.

    Returns:
        The numbers of each side.
    """
    numbers: list[list[float]] = [[] for _ in sides]
    for round_ in range(rounds + 1):
        for index, side in enumerate(sides):
            number = side()
            if round_:
                numbers[index].append(number)
    return numbers


def median_difference(left: Iterable[float], right: Iterable[float]) -> float:
    """Returns the median of the differences of paired rounds, left minus right."""
    return statistics.median(a - b for a, b in zip(left, right, strict=True))


def median_ratio(left: Iterable[float], right: Iterable[float]) -> float:
    """Returns the median of the ratios of paired rounds, left over right."""
    return statistics.median(a / b for a, b in zip(left, right, strict=True))


def machine() -> dict[str, Any]:
    """Returns the facts about this machine that figures depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def to_json(figures: Sequence[Figure], facts: dict[str, Any]) -> str:
    """Returns the run as a JSON document."""
    rows = [{**asdict(figure), "is_met": figure.is_met} for figure in figures]
    return json.dumps({"machine": facts, "figures": rows}, indent=2)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

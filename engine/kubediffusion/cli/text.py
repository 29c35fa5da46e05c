"""Words and columns: how facts are written for people."""

import math
from collections.abc import Sequence

_MINUTE = 60.0
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns by spaces, so that the lines read the same in a pipe."""
    lines = [tuple(headers), *(tuple(cell or "-" for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def seconds(value: float) -> str:
    """Write a duration in seconds in at most two units."""
    if not math.isfinite(value) or value < 0:
        return "-"
    if value < 10:
        return f"{value:.1f} s"
    if value < _MINUTE:
        return f"{value:.0f} s"
    if value < _HOUR:
        return f"{value // _MINUTE:.0f} min {value % _MINUTE:.0f} s"
    if value < _DAY:
        return f"{value // _HOUR:.0f} h {value % _HOUR // _MINUTE:.0f} min"
    return f"{value // _DAY:.0f} d {value % _DAY // _HOUR:.0f} h"


def size(value: int) -> str:
    """Write a number of bytes in the unit that suits it."""
    number = float(value)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def short(identifier: str) -> str:
    """Shorten a uuid or digest to what tells it from its neighbours."""
    return identifier[:8]


def count(number: int, noun: str) -> str:
    """Write a number with its noun, which gets an s unless there is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def place(position: int) -> str:
    """Write a place in a worker's queue, from 0; what runs is not in the queue."""
    return f"{position} ahead in the queue" if position else "next in the queue"


def steps(step: int, total: int) -> str:
    """Write how far a generation is; the total is 0 where nobody knows it."""
    if not step and not total:
        return ""
    return f"{step}/{total}" if total else str(step)

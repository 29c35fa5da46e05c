"""Measures the rows of docs/reference/performance.md: `python tests/bench/run.py [ROW …]`."""

import argparse
import importlib
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import figures
import rich.console
import rich.table

ROWS = {
    "P1": "rows.added_time",
    "P2": "rows.bulk_transfer",
    "P3": "rows.step_control",
    "P4": "rows.engine_restart",
    "P5": "rows.takeover",
    "P7": "rows.cancel",
    "P8": "rows.process_transport",
    "P9": "rows.worker_throughput",
    "P11": "rows.engine_cost",
    "P14": "rows.import_time",
    "P15": "rows.worker_start",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the wanted rows and returns the exit code: 1 where a row could not be measured."""
    options = _parse(arguments)
    facts = figures.machine()
    settings = figures.Settings(rounds=2 if options.quick else 7, is_quick=options.quick)
    console = rich.console.Console(stderr=True)
    measured: list[figures.Figure] = []
    failed = False
    for name in options.rows or ROWS:
        started = time.perf_counter()
        try:
            measured += importlib.import_module(ROWS[name]).measure(settings)
        except Exception:  # noqa: BLE001  # a row that breaks must not take the others along
            console.print_exception()
            failed = True
        console.print(f"{name} measured in {time.perf_counter() - started:.0f} s")
        facts["load_average_at_end"] = [round(load, 2) for load in os.getloadavg()]
        # After each row: a run that is broken off keeps what it has.
        if options.json:
            pathlib.Path(options.json).write_text(figures.to_json(measured, facts), "utf-8")
    _print(measured, facts)
    return int(failed)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kubediffusion bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="only show that the rows work")
    options = parser.parse_args(arguments)
    options.rows = [name.upper() for name in options.rows]
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; there are {', '.join(ROWS)}")
    return options


def _print(measured: Sequence[figures.Figure], facts: dict[str, object]) -> None:
    table = rich.table.Table(title="Figures of one run")
    for column in ("row", "what", "measured", "goal", "", "beside it in the same run"):
        table.add_column(column, overflow="fold")
    for figure in measured:
        table.add_row(
            figure.row,
            figure.what,
            f"{figure.value:.3g} {figure.unit}",
            _goal(figure),
            {None: "", True: "met", False: "missed"}[figure.is_met],
            figure.baseline,
        )
    width = None if sys.stdout.isatty() else 140
    console = rich.console.Console(width=width)
    console.print(table)
    console.print(", ".join(f"{name}: {fact}" for name, fact in facts.items()), highlight=False)


def _goal(figure: figures.Figure) -> str:
    if figure.goal is None:
        return ""
    return f"{'≤' if figure.is_lower_better else '≥'} {figure.goal:g} {figure.unit}"


if __name__ == "__main__":
    sys.exit(main())

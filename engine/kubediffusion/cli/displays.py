"""Shows how generations get on: bars in a terminal, lines in a pipe, nothing for scripts."""

import sys
from typing import TYPE_CHECKING, Protocol, Self

import click

from kubediffusion.cli import news, text

if TYPE_CHECKING:
    from rich import progress


class Display(Protocol):
    """Shows generations on stderr; used as a context manager."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(self, *failure: object) -> None:
        """Leave the screen in order, whatever happened."""
        ...

    def show(self, item: news.News) -> None:
        """Take in what is new about a generation."""
        ...

    def say(self, line: str) -> None:
        """Write a line of its own."""
        ...


def choose(*, is_silent: bool) -> Display:
    """Choose what fits stderr.

    Args:
        is_silent: Show nothing, because a script reads.
    """
    if is_silent:
        return SilentDisplay()
    return BarDisplay() if sys.stderr.isatty() else LineDisplay()


class SilentDisplay:
    """Shows nothing."""

    def __enter__(self) -> Self:
        """Begin to show nothing."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Leave no trace."""

    def show(self, item: news.News) -> None:
        """Drop it."""

    def say(self, line: str) -> None:
        """Drop it."""


class LineDisplay:
    """Writes a line for every change that matters."""

    def __init__(self) -> None:
        self._digest = news.Digest()

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Leave the lines where they are."""

    def show(self, item: news.News) -> None:
        """Write a line if it is worth one."""
        for line in self._digest.lines(item):
            self.say(line)

    def say(self, line: str) -> None:
        """Write the line."""
        click.echo(line, err=True)


class BarDisplay:
    """Draws a bar for each generation."""

    def __init__(self) -> None:
        self._bars = _make_bars()
        self._tasks: dict[str, progress.TaskID] = {}

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(self, *failure: object) -> None:
        """Leave the last picture, and the cursor below it."""
        self._bars.stop()

    def show(self, item: news.News) -> None:
        """Move the generation's bar."""
        task = self._tasks.get(item.request_id)
        if task is None:
            task = self._bars.add_task(item.request_id, total=None, note="")
            self._tasks[item.request_id] = task
        if item.kind is news.Kind.STEP:
            left = "" if item.eta_seconds is None else f"{text.seconds(item.eta_seconds)} left"
            self._bars.update(task, completed=item.step, total=item.total or None, note=left)
            return
        self._bars.update(task, note=item.detail or item.kind.value)
        if item.kind is news.Kind.SUCCEEDED:
            total = self._bars.tasks[self._bars.task_ids.index(task)].total or 1
            self._bars.update(task, completed=total, total=total, note=item.detail or "done")

    def say(self, line: str) -> None:
        """Write the line above the bars."""
        self._bars.console.print(line, highlight=False, markup=False)


def _make_bars() -> "progress.Progress":
    # rich takes 60 ms to import, which only a terminal pays.
    from rich import console, progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=28),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}", style="dim"),
        console=console.Console(stderr=True),
    )

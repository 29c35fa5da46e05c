"""Shows how generations get on: bars in a terminal, lines in a pipe, nothing for scripts."""

import sys
from typing import TYPE_CHECKING, Protocol, Self, TextIO

import click

from kubediffusion.cli import news, text

if TYPE_CHECKING:
    from rich import progress


class Display(Protocol):
    """Shows generations; used as a context manager."""

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


def choose(
    *, is_silent: bool = False, is_terse: bool = False, to: TextIO | None = None
) -> Display:
    """Choose what fits where it is shown.

    Args:
        is_silent: Show nothing, because a script reads.
        is_terse: Where lines cannot be overwritten, tell of ends alone, below what is said.
        to: The stream; stderr where it is absent, because results are on stdout.
    """
    stream = to or sys.stderr
    if is_silent:
        return SilentDisplay()
    return BarDisplay(stream) if stream.isatty() else LineDisplay(stream, is_terse=is_terse)


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

    def __init__(self, stream: TextIO, *, is_terse: bool) -> None:
        self._stream = stream
        self._is_terse = is_terse
        self._digest = news.Digest()

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Leave the lines where they are."""

    def show(self, item: news.News) -> None:
        """Write a line if it is worth one."""
        if item.is_last or not self._is_terse:
            for line in self._digest.lines(item):
                self.say(f"  {line}" if self._is_terse else line)

    def say(self, line: str) -> None:
        """Write the line at once, for who reads along."""
        click.echo(line, file=self._stream)
        self._stream.flush()


class BarDisplay:
    """Draws a bar for each generation."""

    def __init__(self, stream: TextIO) -> None:
        self._bars = _make_bars(stream)
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
        task = self._task(item.request_id)
        match item.kind:
            case news.Kind.STEP:
                left = "" if item.eta_seconds is None else f"{text.seconds(item.eta_seconds)} left"
                count = text.steps(item.step, item.total)
                total = item.total or None
                self._bars.update(task, completed=item.step, total=total, count=count, note=left)
            case news.Kind.SUCCEEDED:
                end = self._bars.tasks[task].total or 1
                note = item.detail or "done"
                # The last steps may have been left out for newer events.
                self._bars.update(task, completed=end, total=end, count="", note=note)
            case _:
                self._bars.update(task, note=item.detail or item.kind.value)

    def say(self, line: str) -> None:
        """Write the line above the bars."""
        self._bars.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _task(self, request_id: str) -> "progress.TaskID":
        if request_id not in self._tasks:
            # Without a total the bar pulses, which means "waiting" here.
            self._tasks[request_id] = self._bars.add_task(
                request_id, total=None, count="", note=""
            )
        return self._tasks[request_id]


def _make_bars(stream: TextIO) -> "progress.Progress":
    # rich takes 60 ms to import, which only a terminal pays.
    from rich import console, progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=28),
        progress.TextColumn("{task.fields[count]}"),
        progress.TextColumn("{task.fields[note]}", style="dim"),
        console=console.Console(file=stream),
    )

"""Counts what happens to generations, as an engine tells it or as workers do."""

import collections
from dataclasses import dataclass, field

from kubediffusion.cli import news


@dataclass(slots=True)
class Tally:
    """What is known of each generation, from news in their order."""

    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The latest step, and how many there will be, of those that have begun."""
    starts: collections.Counter[str] = field(default_factory=collections.Counter)
    """How often each was begun."""
    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    """How often each succeeded."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why some did not."""

    def take(self, item: news.News) -> None:
        """Count one more piece of news."""
        name = item.request_id
        if item.kind is news.Kind.STARTED:
            self.starts[name] += 1
            self.steps.setdefault(name, (0, 0))
        elif item.kind is news.Kind.STEP:
            self.steps[name] = (item.step, item.total)
        elif item.kind is news.Kind.SUCCEEDED:
            self.ends[name] += 1
        elif item.is_last:
            self.failures[name] = item.detail or item.kind.value

    @property
    def running(self) -> dict[str, tuple[int, int]]:
        """Those that have begun and not ended, with step and total."""
        return {
            name: steps
            for name, steps in self.steps.items()
            if name not in self.ends and name not in self.failures
        }

    def is_moment_to_kill(self) -> bool:
        """Tell whether an engine's death would hurt: some is done, some is half done."""
        half_done = any(0 < total <= 2 * step < 2 * total for step, total in self.running.values())
        return len(self.ends) >= 2 and half_done

    def has_moved_on(self, since: dict[str, tuple[int, int]]) -> bool:
        """Tell whether all of an earlier `running` have moved, and one of them has ended."""
        running = self.running
        have_moved = all(
            name not in running or running[name][0] > step for name, (step, _) in since.items()
        )
        return have_moved and any(name in self.ends for name in since)

    def executed_once(self) -> list[str]:
        """Answer those that were begun once and succeeded once."""
        return [name for name in self.ends if self.ends[name] == self.starts[name] == 1]

"""What came out of the demo, as measured, and how it is told."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubediffusion.cli import text


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A worker process's life."""

    process_id: int
    incarnation: str

    def __str__(self) -> str:
        return f"pid {self.process_id}, incarnation {text.short(self.incarnation)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that was counted and measured."""

    before: Mapping[str, Life]
    """The workers' lives at the start, by name."""
    after: Mapping[str, Life]
    """At the end."""
    requested: int
    done_before_kill: int
    running_at_kill: Mapping[str, tuple[int, int]]
    """Step and total, as the engine knew last."""
    waiting_at_kill: int
    advanced_alone: Mapping[str, tuple[int, int]]
    """Where those were before the second engine was started."""
    executed_once: int
    """Begun once and succeeded once, as the workers tell."""
    delivered: int
    """Pictures saved."""
    matching: int | None
    """Pictures that show what their prompts say; None where the prompts cannot be checked."""
    restart_seconds: float
    """From the second engine's exec to its first event."""
    load_seconds: float
    """From a worker's exec until it served, the slower one's."""
    step_seconds: float
    """Median over all steps on workers; 0 where unknown."""
    total_seconds: float
    output: str
    """The folder."""
    sheet: str
    """The contact sheet."""

    @property
    def lost_steps(self) -> int:
        """Steps done that would have died with an engine that has the model itself."""
        return sum(step for step, _ in self.running_at_kill.values())

    @property
    def is_good(self) -> bool:
        """Whether everything was as promised."""
        return (
            dict(self.before) == dict(self.after)
            and self.executed_once == self.delivered == self.requested
        )


def as_json(facts: Facts) -> dict[str, Any]:  # Any: what json.dumps takes.
    """Turn the facts into what `--json` prints."""
    return {
        **dataclasses.asdict(facts),
        "lost_steps": facts.lost_steps,
        "is_good": facts.is_good,
    }


def lines(facts: Facts) -> Iterator[str]:
    """Tell the facts."""
    for name, life in facts.before.items():
        later = facts.after.get(name)
        yield _row(name, f"{life}: {'the same now' if later == life else f'now {later}'}")
    yield _row(
        "generations",
        f"{facts.requested}: {facts.done_before_kill} done, {len(facts.running_at_kill)} running"
        f" and {facts.waiting_at_kill} waiting at the kill",
    )
    yield _row("executed", f"{facts.executed_once} of {facts.requested} exactly once")
    yield _row("delivered", f"{facts.delivered} of {facts.requested} pictures")
    if facts.matching is not None:
        checked = f"{facts.matching} of {facts.delivered} pictures show what their prompts say"
        yield _row("checked", checked)
    yield _row("engine restart", f"{facts.restart_seconds * 1000:.0f} ms from exec to first event")
    yield _row("kept by workers", _kept(facts))
    yield _row("whole demo", text.seconds(facts.total_seconds))
    yield _row("contact sheet", facts.sheet)


def _kept(facts: Facts) -> str:
    """Say what died with an engine that has the model in its own process."""
    steps = text.count(facts.lost_steps, "step")
    work = text.seconds(facts.lost_steps * facts.step_seconds)
    return f"the model ({text.seconds(facts.load_seconds)} to load) and {steps} of work ({work})"


def _row(title: str, fact: str) -> str:
    return f"  {title:<16} {fact}"

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
class Takeover:
    """What became of a generation whose worker was killed."""

    killed: str
    """The worker's name."""
    killed_at: int
    """Newest step that the engine knew of."""
    total: int
    went_on: str
    """Name of the worker that finished it."""
    resumed_from: int
    """Step of the checkpoint; 0: from the seed."""
    resumed_seconds: float
    """From the kill to the first step after the checkpoint."""
    exactness: str
    """As promised by the worker that went on."""
    sha256: str
    """Of the picture's file."""
    undisturbed_sha256: str
    """Of that which was computed without a kill."""

    @property
    def lost_steps(self) -> int:
        """Steps that were computed twice."""
        return max(0, self.killed_at - self.resumed_from)

    @property
    def is_good(self) -> bool:
        """Whether the same picture came out, from another worker."""
        return self.sha256 == self.undisturbed_sha256 and self.went_on not in ("", self.killed)


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
    takeover: Takeover | None
    """The second act; None with one worker, where nobody can take over."""
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
            and (self.takeover is None or self.takeover.is_good)
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
    if facts.takeover is not None:
        yield from _takeover(facts.takeover)
    yield _row("whole demo", text.seconds(facts.total_seconds))
    yield _row("contact sheet", facts.sheet)


def _kept(facts: Facts) -> str:
    """Say what died with an engine that has the model in its own process."""
    steps = text.count(facts.lost_steps, "step")
    work = text.seconds(facts.lost_steps * facts.step_seconds)
    return f"the model ({text.seconds(facts.load_seconds)} to load) and {steps} of work ({work})"


def _takeover(facts: Takeover) -> Iterator[str]:
    yield _row("worker killed", f"{facts.killed}, at step {facts.killed_at} of {facts.total}")
    origin = f"after step {facts.resumed_from}" if facts.resumed_from else "from the seed"
    yield _row(
        "went on",
        f"{facts.went_on} {origin}, {text.seconds(facts.resumed_seconds)} after the kill;"
        f" {text.count(facts.lost_steps, 'step')} computed again",
    )
    is_same = facts.sha256 == facts.undisturbed_sha256
    digest = f"sha256 {text.short(facts.sha256)}"
    other = "the same" if is_same else text.short(facts.undisturbed_sha256)
    yield _row("same picture", f"{digest}; undisturbed: {other} ({facts.exactness})")


def _row(title: str, fact: str) -> str:
    return f"  {title:<16} {fact}"

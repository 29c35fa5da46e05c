"""What happened at the seams of a call, in order, and which of it need not happen again.

To go on from a checkpoint, a run calls its pipeline again from the beginning; what the denoising
loop computed up to the checkpoint is not computed again but stood in for. Pure: no torch.
"""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubediffusion_wire import errors

FORWARD = "forward"

_ITERATIONS_TO_JUDGE_BY = 3
"""Of a loop, until an encoder that is called in each of them is taken for a denoiser."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimestepsSet:
    """A scheduler got its timesteps."""

    stream: int
    """Numbers the schedulers in the order of their first appearance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepped:
    """A scheduler has stepped."""

    stream: int
    is_first: bool
    """Whether it begins at its first timestep, for the first time or again."""
    output: int
    """Number of the skeleton of what it returned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Called:
    """A module was called."""

    name: str
    method: str
    style: str
    """How it was called: names and types of its arguments, and what switches say."""
    is_encoder: bool
    """Whether it is of a kind that rarely denoises, such as a language model."""
    is_opaque: bool
    """Whether nothing can stand in for what it returned."""
    output: int
    """Number of the skeleton of what it returned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Approach:
    """A forward of a module that has not begun."""

    name: str
    style: str
    """As of `Called`."""


Event = TimestepsSet | Stepped | Called
_KINDS: Mapping[str, type[Event]] = {"set": TimestepsSet, "step": Stepped, "call": Called}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_json(event: Event) -> dict[str, Any]:
    """Returns an event as JSON."""
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    return {"kind": _NAMES[type(event)], **fields}


def from_json(value: object) -> Event:
    """Reads an event.

    Raises:
        errors.InvalidCheckpointError: It is none.
    """
    if isinstance(value, dict):
        fields = dict(value)
        kind = _KINDS.get(str(fields.pop("kind", "")))
        if kind is not None and fields.keys() == kind.__dataclass_fields__.keys():
            wanted = {name: kind.__annotations__[name] for name in fields}
            if all(type(fields[name]) is wanted[name] for name in fields):
                return kind(**fields)
    raise errors.InvalidCheckpointError("the checkpoint's recording has an unknown event")


@dataclass(slots=True)
class _Gap:
    """The module calls between two iterations of a loop."""

    calls: list[int]
    is_head: bool = False
    """Whether a loop begins after them: they also hold what prepares it."""


def skippable(tape: Sequence[Event], following: "Approach") -> frozenset[int]:
    """Returns the places of the calls for which something can stand in.

    Within a loop, what modules return goes to a step, and steps are stood in for as well.
    Before a loop there are calls of which more depends, such as those of text encoders; only
    those at its end that are made in each of its iterations are skipped. What is left is
    computed again, which gives the same as before.

    Args:
        tape: What happened up to the checkpoint.
        following: What was called next.
    """
    gaps = list(_gaps(tape))
    inner = [gap for gap in gaps if not gap.is_head]
    frequency = collections.Counter(
        name for gap in inner for name in {_called(tape, place).name for place in gap.calls}
    )
    found: set[int] = set()
    for gap in inner:
        for place in gap.calls:
            call = _called(tape, place)
            is_constant = frequency[call.name] == len(inner) >= _ITERATIONS_TO_JUDGE_BY
            if _may_be_skipped(call) and (is_constant or not call.is_encoder):
                found.add(place)
    for gap, after in itertools.zip_longest(gaps, gaps[1:]):
        if gap is not None and gap.is_head:
            found.update(_loop_calls(tape, gap, after, following))
    return frozenset(found)


def _gaps(tape: Sequence[Event]) -> Iterator[_Gap]:
    """Yields what is before each iteration; an iteration is a row of steps."""
    gap = _Gap([])
    is_complete = False
    for place, event in enumerate(tape):
        if isinstance(event, Called):
            if is_complete:
                yield gap
                gap, is_complete = _Gap([]), False
            gap.calls.append(place)
        elif isinstance(event, Stepped):
            # A scheduler that joins others in the middle of their loop begins no loop.
            gap.is_head = event.is_first and (gap.is_head or not is_complete)
            is_complete = True
    if is_complete:
        yield gap


def _loop_calls(
    tape: Sequence[Event], head: _Gap, after: _Gap | None, following: Approach
) -> Iterator[int]:
    """Yields the calls at the end of a head that belong to the first iteration."""
    if after is None:
        for place in head.calls[-1:]:
            call = _called(tape, place)
            if _may_be_skipped(call) and (call.name, call.style) == (
                following.name,
                following.style,
            ):
                yield place
        return
    if after.is_head:
        return
    pairs = zip(reversed(head.calls), reversed(after.calls), strict=False)
    for place, pattern in pairs:
        call = _called(tape, place)
        if call != _called(tape, pattern) or not _may_be_skipped(call):
            return
        yield place


def _may_be_skipped(call: Called) -> bool:
    return call.method == FORWARD and not call.is_opaque


def _called(tape: Sequence[Event], place: int) -> Called:
    event = tape[place]
    assert isinstance(event, Called), "gaps hold the places of calls alone"
    return event

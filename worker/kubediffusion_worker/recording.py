"""Keeps what a call needs to go on elsewhere, at the seams, since the beginning of the call.

Of what steps have returned only the last of each loop is kept, and what the pipeline itself
still holds: the rest has gone into it. Everything is cheap until a checkpoint is captured.
"""

import hashlib
import sys
import types
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.guiders import guider_utils
from diffusers.pipelines import pipeline_utils

from kubediffusion_worker import (
    carried,
    fork,
    leaves,
    random_state,
    runs,
    seams,
    solver_state,
    step_caches,
    tapes,
    trees,
    variables,
)

_MIN_PART_BYTES = 1_000_000


@dataclass(slots=True)
class _Kept:
    """What a step has returned, and what it has left behind."""

    place: int
    """On the tape."""
    tensors: list[torch.Tensor]
    """Copies: pipelines change the tensors that they get."""
    originals: list["weakref.ref[torch.Tensor]"]
    randomness: random_state.States
    attributes: Mapping[str, Any]
    """Of the scheduler, right after the step."""


@dataclass(slots=True)
class _Stream:
    """One scheduler of the call."""

    number: int
    scheduler: object
    """Kept so that its id stays taken."""
    baseline: solver_state.Baseline
    attributes: Mapping[str, Any]
    """As last seen."""
    has_begun: bool = False
    """Whether it has stepped since its timesteps were set."""
    first_place: Hashable = None
    """Of the timestep that the current loop began with; None where that cannot be told."""
    last_timestep: object = None
    current: list[_Kept] = field(default_factory=list)
    """The steps of its last iteration."""


class Recording:
    """What has happened in the current call of a pipeline."""

    def __init__(self) -> None:
        """Starts before the first call."""
        self.caches = step_caches.StepCaches()
        self._random = random_state.RandomState(())
        self._guiders: Mapping[str, object] = {}
        self._new_schedulers: dict[int, Mapping[str, Any]] = {}
        self._events: list[tapes.Event] = []
        self._skeletons: list[trees.Node] = []
        self._numbers: dict[Hashable, int] = {}
        self._tape: list[int] = []
        self._streams: dict[int, _Stream] = {}
        self._sealed: list[_Kept] = []
        self._passed: list[tuple[int, list[weakref.ref[torch.Tensor]]]] = []
        self._constants = variables.Known()
        self._approached: str | None = ""
        """The module that was called last before a loop; None within one."""

    @property
    def tape(self) -> Sequence[int]:
        """What has happened, as numbers of events."""
        return self._tape

    @property
    def events(self) -> Sequence[tapes.Event]:
        """All different events, in the order of their first appearance."""
        return self._events

    @property
    def skeletons(self) -> Sequence[trees.Node]:
        """What events have returned, by the numbers that events have for it."""
        return self._skeletons

    def call_started(
        self,
        pipelines: Sequence[pipeline_utils.DiffusionPipeline],
        generators: Sequence[torch.Generator],
    ) -> None:
        """Takes note that a call begins.

        Args:
            pipelines: The copy that is called and all that are nested in it.
            generators: What it is called with.
        """
        self.__init__()  # type: ignore[misc]  # nothing of the call before matters
        self._random = random_state.RandomState(generators)
        parts = [part for each in pipelines for part in fork.parts(each)]
        self._guiders = carried.numbered(
            part for part in parts if isinstance(part, guider_utils.BaseGuidance)
        )
        self._new_schedulers = {
            id(part): solver_state.attributes(part) for part in parts if fork.is_scheduler(part)
        }

    def call_ended(self) -> None:
        """Lets go of all that belongs to the call."""
        self.__init__()  # type: ignore[misc]  # as before the first call

    def stream(self, scheduler: object) -> int:
        """Returns the number of a scheduler."""
        return self._stream(scheduler).number

    def approached(self, call: seams.ModuleCall) -> None:
        """Takes note that a module is about to be called."""
        if self._approached is not None and self._approached != call.name:
            # What there is before a loop's first call of it does not come from the loop.
            self._approached = call.name
            self._constants = variables.known_at(sys._getframe(1))

    def timesteps_set(self, scheduler: object) -> None:
        """Takes note that a scheduler is ready for a loop."""
        self._approached = ""
        stream = self._stream(scheduler)
        after = solver_state.attributes(scheduler)
        stream.baseline.update(stream.attributes, after)
        stream.attributes = after
        stream.has_begun, stream.last_timestep = False, None
        self._seal(stream)
        self._note(("set", stream.number), tapes.TimestepsSet(stream=stream.number))

    def _is_first(self, stream: _Stream, timestep: object) -> bool:
        """Tells whether a step is the first one of a loop of its scheduler."""
        if timestep is stream.last_timestep and timestep is not None:
            return False  # Of the same iteration.
        if not stream.has_begun:
            return True
        return stream.first_place is not None and stream.first_place == _place(timestep)

    def stepped(self, call: seams.StepCall, output: object) -> None:
        """Takes note that a scheduler has stepped."""
        self._approached = None
        stream = self._stream(call.scheduler)
        timestep = call.argument("timestep")
        is_first = self._is_first(stream, timestep)
        if is_first:
            stream.has_begun, stream.first_place = True, _place(timestep)
            self._seal(stream)
        elif timestep is None or timestep is not stream.last_timestep:
            self._passed.extend((kept.place, kept.originals) for kept in stream.current)
            stream.current.clear()
        stream.last_timestep = timestep
        look = leaves.signature(output)
        key = ("step", stream.number, is_first, look)
        number = self._numbers.get(key)
        if number is None:
            event = tapes.Stepped(
                stream=stream.number, is_first=is_first, output=self._outline(look, output)
            )
            number = self._number(key, event)
        tensors = leaves.of(output)
        stream.attributes = solver_state.attributes(call.scheduler)
        stream.current.append(
            _Kept(
                len(self._tape),
                [tensor.clone() for tensor in tensors],
                [weakref.ref(tensor) for tensor in tensors],
                self._random.of_torch(),
                stream.attributes,
            )
        )
        self._tape.append(number)

    def called(self, call: seams.ModuleCall, output: object) -> None:
        """Takes note that a module has been called."""
        look = leaves.signature(output)
        key = ("call", call.name, call.method, style_key(call), look)
        number = self._numbers.get(key)
        if number is None:
            skeleton = self._outline(look, output)
            event = tapes.Called(
                name=call.name,
                method=call.method,
                style=style_of(call),
                is_encoder=_is_encoder(call.module),
                is_opaque=trees.is_opaque(self._skeletons[skeleton]),
                output=skeleton,
            )
            number = self._number(key, event)
        self._tape.append(number)

    def random_states(self) -> random_state.States:
        """Returns the states of torch's generators."""
        return self._random.of_torch()

    def restore_random(self, states: random_state.States) -> None:
        """Makes torch's generators what they were."""
        self._random.restore(states)

    def restore_surroundings(
        self, kept: Mapping[str, Any], seam: types.FrameType, *, is_strict: bool
    ) -> None:
        """Makes what is beside the loop what it was when it was captured.

        Raises:
            variables.ChangedError: What is made again has not come to the same, and is strict.
        """
        variables.restore(seam, kept["variables"], is_strict=is_strict)
        self._random.restore_others(kept["other_randomness"])
        for number, guider in self._guiders.items():
            carried.restore(guider, kept["guiders"][number])
        self.caches.restore(kept["caches"])

    def capture(
        self,
        following: seams.ModuleCall,
        seam: types.FrameType,
        tensors: dict[str, torch.Tensor],
    ) -> dict[str, Any]:
        """Returns what the call needs to go on from this boundary, as JSON.

        Args:
            following: What is about to be called.
            seam: Where it is called.
            tensors: Takes copies of the tensors that it needs.

        Raises:
            runs.NotCapturableError: Something in it has no form as data.
        """
        if any(trees.is_opaque(self._skeletons[each.output]) for each in self._steps()):
            raise runs.NotCapturableError("a step returns what has no form as data")
        kept = {
            "steps": list(self._kept_steps()),
            "samplers": [
                stream.number
                for stream in self._streams.values()
                if solver_state.has_sampler(stream.attributes)
            ],
            "randomness": self._random.of_torch(),
            "other_randomness": self._random.of_others(),
            "guiders": {
                number: carried.values_of(guider, f"guider.{number}")
                for number, guider in self._guiders.items()
            },
            "caches": self.caches.capture(),
            "variables": self._variables(seam),
        }
        return {
            "next": {"name": following.name, "style": style_of(following)},
            "tape": list(self._tape),
            "events": [tapes.to_json(event) for event in self._events],
            "skeletons": list(self._skeletons),
            "kept": trees.flatten(kept, tensors, "call"),
        }

    def _kept_steps(self) -> Iterator[dict[str, Any]]:
        wanted: dict[int, dict[str, Any]] = {}
        history: set[int] = set()
        for stream in self._streams.values():
            history.update(id(leaf) for leaf in leaves.of(dict(stream.attributes)))
            for kept in stream.current:
                changed = stream.baseline.difference(kept.attributes)
                wanted[kept.place] = {**_saved(kept), "attributes": changed}
        for kept in self._sealed:
            wanted[kept.place] = {**_saved(kept), "attributes": {}}
        for place, originals in self._passed:
            alive = [original() for original in originals]
            if place not in wanted and any(
                each is not None and id(each) not in history for each in alive
            ):
                wanted[place] = {"place": place, "tensors": alive}
        return iter([wanted[place] for place in sorted(wanted)])

    def _variables(self, seam: types.FrameType) -> variables.Saved:
        kept = [each for stream in self._streams.values() for each in stream.current]
        returned = [reference() for each in kept for reference in each.originals]
        handed_out = variables.Known(each for each in returned if each is not None)
        size = sum(each.nbytes for one in kept for each in one.tensors)
        return variables.capture(
            seam, (self._constants, handed_out), max_bytes=max(size * 4, _MIN_PART_BYTES)
        )

    def _steps(self) -> Iterator[tapes.Stepped]:
        return (event for event in self._events if isinstance(event, tapes.Stepped))

    def _stream(self, scheduler: object) -> _Stream:
        stream = self._streams.get(id(scheduler))
        if stream is None:
            new = self._new_schedulers.get(id(scheduler)) or self._new_of_class(scheduler)
            stream = self._streams[id(scheduler)] = _Stream(
                len(self._streams), scheduler, solver_state.Baseline(new), new
            )
        return stream

    def _new_of_class(self, scheduler: object) -> Mapping[str, Any]:
        """Returns what a copy had, that a pipeline has made of one of its schedulers."""
        for stream in self._streams.values():
            if type(stream.scheduler) is type(scheduler):
                return self._new_schedulers.get(id(stream.scheduler), {})
        return {}

    def _seal(self, stream: _Stream) -> None:
        for kept in stream.current:
            kept.attributes = {}  # Its loop has ended.
        self._sealed.extend(stream.current)
        stream.current.clear()

    def _note(self, key: Hashable, event: tapes.Event) -> None:
        number = self._numbers.get(key)
        self._tape.append(self._number(key, event) if number is None else number)

    def _number(self, key: Hashable, event: tapes.Event) -> int:
        self._events.append(event)
        return self._numbers.setdefault(key, len(self._events) - 1)

    def _outline(self, look: Hashable, output: object) -> int:
        key = ("look", look)
        if key not in self._numbers:
            self._skeletons.append(trees.skeleton_of(output))
            self._numbers[key] = len(self._skeletons) - 1
        return self._numbers[key]


def style_key(call: seams.ModuleCall) -> Hashable:
    """Returns how a module is called, quickly: what it is told in words, and what it is given."""
    return (
        *map(type, call.positional),
        *(
            (name, value if value is None or type(value) in (bool, str) else type(value))
            for name, value in call.keywords.items()
        ),
    )


def style_of(call: seams.ModuleCall) -> str:
    """Returns how a module is called, as a text that is the same in each process."""
    words = [type(value).__name__ for value in call.positional]
    for name, value in call.keywords.items():
        words.append(f"{name}={_word(value)}")
    return ",".join(words)


def _word(value: object) -> str:
    if value is None or type(value) is bool:
        return str(value)
    if type(value) is str:
        # It may be a text of the user's.
        return hashlib.sha256(value.encode()).hexdigest()[:8]
    return type(value).__name__


def _saved(kept: _Kept) -> dict[str, Any]:
    return {"place": kept.place, "tensors": kept.tensors, "randomness": kept.randomness}


def _place(timestep: object) -> Hashable:
    """Returns what tells a timestep from the others of its loop, without waiting for a GPU."""
    if isinstance(timestep, torch.Tensor):
        if timestep.numel() != 1:
            return None
        if timestep.device.type == "cpu":
            return timestep.item()
        # As a part of all timesteps it lies at the same address each time.
        is_part = timestep.untyped_storage().nbytes() > timestep.element_size()
        return timestep.data_ptr() if is_part else None
    return timestep if isinstance(timestep, (int, float)) else None


def _is_encoder(module: torch.nn.Module) -> bool:
    package, *path = type(module).__module__.split(".")
    # The denoisers of diffusers are in a package of that name too, but one inside of its own.
    return package == "transformers" or "autoencoders" in path

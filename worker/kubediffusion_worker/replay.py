"""Goes on from a checkpoint: a call made again, with what has been computed already left out.

The pipeline runs its own code from the beginning. Up to the checkpoint, calls of the denoiser
and steps give something that looks like what they gave; the steps on which the rest depends
give what they gave, and leave the scheduler and the random generators as they did.
"""

import contextlib
import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import torch

from kubediffusion_wire import errors
from kubediffusion_worker import (
    leaves,
    random_state,
    recording,
    seams,
    tapes,
    trees,
    variables,
)


class DivergedError(BaseException):
    """Leaves a pipeline that does not do what is recorded; no pipeline code catches it."""


class Replay:
    """One call that goes on from a checkpoint."""

    def __init__(
        self,
        body: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        *,
        device: torch.device,
        record: recording.Recording,
        is_strict: bool,
    ) -> None:
        """Reads what was captured by `recording.Recording.capture`.

        Args:
            body: What it returned.
            tensors: By the names that it has for them.
            device: Where the pipeline computes.
            record: Of the call that is about to be made.
            is_strict: Whether what is computed again must have the same bits.

        Raises:
            errors.InvalidCheckpointError: It is no such recording.
        """
        self._device = device
        self._record = record
        self._is_strict = is_strict
        try:
            self._events = [tapes.from_json(each) for each in body["events"]]
            self._tape = [self._events[int(number)] for number in body["tape"]]
            self._numbers = [int(number) for number in body["tape"]]
            self._skeletons = list(body["skeletons"])
            following = body["next"]
            self._next = tapes.Approach(name=str(following["name"]), style=str(following["style"]))
            self._kept = trees.rebuild(body["kept"], tensors, device)
            self._steps = {step["place"]: step for step in self._kept["steps"]}
            self._skipped = tapes.skippable(self._tape, self._next)
        except (KeyError, TypeError, ValueError, IndexError, AssertionError) as error:
            raise errors.InvalidCheckpointError("the checkpoint has no such recording") from error

    @property
    def is_complete(self) -> bool:
        """Whether all that is recorded has happened again."""
        return self._place == len(self._tape)

    @property
    def _place(self) -> int:
        return len(self._record.tape)

    def timesteps_set(self) -> None:
        """Checks that a scheduler was to be ready for a loop; after it was recorded."""
        self._check_last()

    def step(self, call: seams.StepCall) -> object:
        """Answers a step, and records it.

        Raises:
            DivergedError: Something else is recorded.
        """
        place = self._place
        event = self._expected(tapes.Stepped)
        if event.stream != self._record.stream(call.scheduler):
            raise DivergedError
        if event.stream in self._kept["samplers"]:
            # It grows a tree of noise, whose last bits depend on all that it was asked before;
            # what it returns is of no use.
            call.run()
        output = trees.stand_in(self._skeletons[event.output], self._device)
        saved = self._steps.get(place)
        if saved is not None:
            output = _with_tensors(output, saved["tensors"])
        if saved is not None and "randomness" in saved:
            for name, value in saved["attributes"].items():
                setattr(call.scheduler, name, value)
            self._record.restore_random(saved["randomness"])
        self._record.stepped(call, output)
        self._check_last()
        return output

    def module(
        self, call: seams.ModuleCall, around: contextlib.AbstractContextManager[None]
    ) -> object:
        """Answers a call of a module, and records it.

        Args:
            call: What the pipeline wants.
            around: Entered where it must be computed.

        Raises:
            DivergedError: Something else is recorded.
        """
        event = self._expected(tapes.Called)
        place = self._place
        if (event.name, event.method) != (call.name, call.method):
            raise DivergedError
        if event.style != recording.style_of(call):
            raise DivergedError
        if place in self._skipped:
            output: object = trees.stand_in(self._skeletons[event.output], self._device)
        else:
            with around:
                output = call.run()
        self._record.called(call, output)
        self._check_last()
        return output

    def catch_up(self, following: seams.ModuleCall, seam: types.FrameType) -> None:
        """Makes everything beside the loop what it was at the checkpoint.

        Raises:
            DivergedError: The pipeline is not where it was.
        """
        found = tapes.Approach(name=following.name, style=recording.style_of(following))
        if not self.is_complete or found != self._next:
            raise DivergedError
        kept = self._kept
        if not random_state.agree(self._record.random_states(), kept["randomness"]):
            raise DivergedError
        self._record.restore_random(kept["randomness"])
        try:
            self._record.restore_surroundings(kept, seam, is_strict=self._is_strict)
        except (variables.ChangedError, KeyError, TypeError, AttributeError) as error:
            raise DivergedError from error

    def _expected(self, kind: type[tapes.Event]) -> Any:
        place = self._place
        if place >= len(self._tape) or type(self._tape[place]) is not kind:
            raise DivergedError
        return self._tape[place]

    def _check_last(self) -> None:
        """Checks what was just recorded against what was recorded here before."""
        place = self._place - 1
        if place >= len(self._tape):
            raise DivergedError
        if self._record.tape[place] != self._numbers[place] and not self._is_alike(place):
            raise DivergedError

    def _is_alike(self, place: int) -> bool:
        """Whether two events are the same although they are numbered in another order."""
        found = self._record.events[self._record.tape[place]]
        wanted = self._tape[place]
        if isinstance(found, tapes.TimestepsSet) or isinstance(wanted, tapes.TimestepsSet):
            return found == wanted
        is_same_output = self._record.skeletons[found.output] == self._skeletons[wanted.output]
        return is_same_output and found == dataclasses.replace(wanted, output=found.output)


def _with_tensors(output: object, saved: list[torch.Tensor | None]) -> object:
    found = iter(saved)

    def replacement(stand_in: torch.Tensor) -> torch.Tensor:
        value = next(found, None)
        return stand_in if value is None else value

    return leaves.replaced(output, replacement)

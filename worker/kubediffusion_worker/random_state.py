"""What the random generators of a call give next: torch's after each step, others at boundaries.

Pipelines draw noise between steps too, from the request's generator or from the global one. So
the place to go on from is the very end of the last step, not the boundary.
"""

import random
from collections.abc import Sequence
from typing import Any, cast

import numpy
import torch

from kubediffusion_wire import errors

States = dict[str, Any]


class RandomState:
    """The generators that one call draws from."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """Takes note of those that are not drawn from.

        Args:
            generators: Those that are passed to the pipeline.
        """
        self._generators = tuple(generators)
        self._python = random.getstate()
        self._numpy = numpy.random.get_state()

    def of_torch(self) -> States:
        """Returns the states of torch's generators."""
        states: States = {
            "generators": [each.get_state() for each in self._generators],
            "cpu": torch.get_rng_state(),
        }
        if torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state_all()
        return states

    def of_others(self) -> States:
        """Returns the states of Python's and numpy's generators, where they were drawn from."""
        states: States = {}
        python = random.getstate()
        if python != self._python:
            states["python"] = [python[0], list(python[1]), python[2]]
        found = cast("tuple[Any, ...]", numpy.random.get_state())
        if not _are_equal(found, cast("tuple[Any, ...]", self._numpy)):
            states["numpy"] = list(found)
        return states

    def restore(self, states: States) -> None:
        """Makes the generators what they were; on another device only those that are there.

        Raises:
            errors.InvalidCheckpointError: There are other generators.
        """
        try:
            for generator, state in zip(self._generators, states["generators"], strict=True):
                generator.set_state(state)
            torch.set_rng_state(states["cpu"])
            if "cuda" in states and torch.cuda.is_initialized():
                torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise errors.InvalidCheckpointError(
                "the checkpoint is of other random generators"
            ) from error

    def restore_others(self, states: States) -> None:
        """Makes Python's and numpy's generators what they were."""
        if "python" in states:
            version, words, gauss = states["python"]
            random.setstate((version, tuple(words), gauss))
        if "numpy" in states:
            numpy.random.set_state(tuple(states["numpy"]))


def agree(left: States, right: States) -> bool:
    """Tells whether torch's generators on the CPU give the same next."""
    pairs = zip(
        [*left["generators"], left["cpu"]], [*right["generators"], right["cpu"]], strict=True
    )
    return all(a.shape == b.shape and bool(torch.equal(a, b)) for a, b in pairs)


def _are_equal(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return all(bool(numpy.all(a == b)) for a, b in zip(left, right, strict=True))

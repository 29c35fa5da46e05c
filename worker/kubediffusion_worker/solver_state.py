"""What a scheduler keeps from step to step, as far as it cannot be made anew.

A used scheduler differs from a new one in its counters and its history of earlier steps. The
timesteps and what follows from them are made again by `set_timesteps`.
"""

from collections.abc import Mapping
from typing import Any

import numpy
import torch

from kubediffusion_worker import runs

_MISSING = object()
_CONFIG = "_internal_dict"
_OWN = "_kubediffusion"
_SAMPLER = "noise_sampler"
_SAMPLER_CLASS = "BrownianTreeNoiseSampler"
_COMPARED_ELEMENTS = 65536

Attributes = Mapping[str, Any]


def attributes(scheduler: object) -> dict[str, Any]:
    """Returns what a scheduler holds now; steps that follow leave it as it is."""
    return {
        # Solvers replace the tensors of their history, but they move them within its list.
        name: list(value) if type(value) is list else value
        for name, value in vars(scheduler).items()
    }


class Baseline:
    """What a scheduler holds without any step: when it is new, and after `set_timesteps`."""

    def __init__(self, new: Attributes) -> None:
        """Starts with a new scheduler's attributes."""
        self._values = dict(new)

    def update(self, before: Attributes, after: Attributes) -> None:
        """Takes note of what `set_timesteps` has made.

        What it left alone may be left from steps, and is not made by it in another process.
        """
        for name, value in after.items():
            if name not in before or not _is_unchanged(value, before[name]):
                self._values[name] = value

    def difference(self, now: Attributes) -> dict[str, Any]:
        """Returns the attributes that steps have changed, less those that are made anew.

        Raises:
            runs.NotCapturableError: A solver keeps an object of which nothing is known.
        """
        changed: dict[str, Any] = {}
        for name, value in now.items():
            if name == _CONFIG or name.startswith(_OWN) or is_sampler(name, value):
                continue
            if not _is_same(value, self._values.get(name, _MISSING)):
                if callable(value):
                    raise runs.NotCapturableError(f"a scheduler keeps a function in {name}")
                changed[name] = value
        return changed


def is_sampler(name: str, value: object) -> bool:
    """Tells whether an attribute is a tree of noise that the first step of a loop makes.

    What it gives depends on its seed alone, not on what was asked of it before.
    """
    return name == _SAMPLER and type(value).__name__ == _SAMPLER_CLASS


def has_sampler(now: Attributes) -> bool:
    """Tells whether a scheduler's first step must be computed to make its tree of noise."""
    return is_sampler(_SAMPLER, now.get(_SAMPLER))


def _is_unchanged(value: object, before: object) -> bool:
    if type(value) is list and type(before) is list:
        return len(value) == len(before) and all(map(_is_identical, value, before))
    return value is before


def _is_identical(left: object, right: object) -> bool:
    return left is right


def _is_same(left: Any, right: Any) -> bool:
    """Whether two values are equal in all that matters; False where that is dear to find out."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return (
            left.shape == right.shape
            and left.dtype == right.dtype
            and left.device == right.device
            and left.numel() <= _COMPARED_ELEMENTS
            and torch.equal(left, right)
        )
    if isinstance(left, numpy.ndarray):
        return left.dtype == right.dtype and numpy.array_equal(left, right)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_is_same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_is_same(left[key], right[key]) for key in left)
    if isinstance(left, (bool, int, float, str)) or left is None:
        return bool(left == right)
    return False

"""The two places where every diffusers pipeline can be watched and left: step and forward.

A pipeline is any Python code; it calls `scheduler.step` and the modules that it is made of. A
`Seams` object stands in these calls. It may raise, and it decides whether and when the real
thing runs: that is all that progress, cancel, parking and resuming need.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call of a scheduler's `step`."""

    scheduler: object
    function: Callable[..., object]
    """The scheduler class's own `step`."""
    names: tuple[str, ...]
    """Of the arguments of `step`, in order; solvers do not agree on one."""
    positional: tuple[object, ...]
    keywords: Mapping[str, object]

    def argument(self, name: str) -> object:
        """Returns an argument by name; None where it was left out."""
        if name in self.keywords:
            return self.keywords[name]
        if name in self.names:
            index = self.names.index(name)
            if index < len(self.positional):
                return self.positional[index]
        return None

    def run(self) -> object:
        """Computes the step."""
        return self.function(self.scheduler, *self.positional, **self.keywords)


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """A call of a module that the pipeline is made of, or of its `encode` or `decode`."""

    name: str
    """The pipeline's name of the module, for example "unet" or "prior_pipe.prior"."""
    method: str
    module: torch.nn.Module
    """The shared module."""
    function: Callable[..., object]
    positional: tuple[object, ...]
    keywords: Mapping[str, object]

    def run(self) -> object:
        """Computes what the pipeline has asked for."""
        return self.function(*self.positional, **self.keywords)


class Seams(Protocol):
    """Stands between a pipeline and its parts. What it raises leaves the pipeline."""

    def timesteps_set(self, scheduler: object) -> None:
        """Takes note that a scheduler is ready for a loop."""

    def step(self, call: StepCall) -> object:
        """Answers a step."""

    def module(self, call: ModuleCall) -> object:
        """Answers a forward, encode or decode of a module."""

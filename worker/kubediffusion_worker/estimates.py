"""How long work will take, learned from the work that was done.

A generation is taken to cost a fixed time (encoding the prompt, decoding the image) and a
time per step and output. Both follow the newest generations, so that the estimate settles
within a few of them.
"""

from dataclasses import dataclass

_NEWEST_WEIGHT = 0.3
_UNKNOWN_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The size of one generation, as far as its specification tells."""

    steps: int = 0
    """Denoising steps times outputs; 0 where the specification leaves it open."""


class Estimator:
    """Learns from ended generations, answers for waiting ones."""

    def __init__(self) -> None:
        self._step_seconds: float | None = None
        self._fixed_seconds = 0.0
        self._usual_steps = 0.0

    def observe(self, *, steps: int, step_seconds: float, total_seconds: float) -> None:
        """Learn from a generation that ran to its end.

        Args:
            steps: Steps times outputs.
            step_seconds: Seconds of one step, over one output.
            total_seconds: From start to result, on the compute thread.
        """
        fixed = max(0.0, total_seconds - steps * step_seconds)
        if self._step_seconds is None:
            self._step_seconds, self._fixed_seconds = step_seconds, fixed
            self._usual_steps = float(steps)
            return
        self._step_seconds = _blend(self._step_seconds, step_seconds)
        self._fixed_seconds = _blend(self._fixed_seconds, fixed)
        self._usual_steps = _blend(self._usual_steps, float(steps))

    def seconds(self, work: Work) -> float:
        """Estimate one generation."""
        if self._step_seconds is None:
            return _UNKNOWN_SECONDS
        steps = work.steps or self._usual_steps
        return self._fixed_seconds + steps * self._step_seconds

    def seconds_of_all(self, waiting: "Waiting") -> float:
        """Estimate a queue."""
        if self._step_seconds is None:
            return waiting.count * _UNKNOWN_SECONDS
        steps = waiting.steps + waiting.unknown * self._usual_steps
        return waiting.count * self._fixed_seconds + steps * self._step_seconds


class Waiting:
    """The sum of the work in a queue.

    Attributes:
        count: Generations.
        steps: Of those that tell.
        unknown: Generations that leave their steps open.
    """

    def __init__(self) -> None:
        self.count = 0
        self.steps = 0
        self.unknown = 0

    def add(self, work: Work) -> None:
        """Count one generation more."""
        self._change(work, 1)

    def remove(self, work: Work) -> None:
        """Count one generation less."""
        self._change(work, -1)

    def _change(self, work: Work, sign: int) -> None:
        self.count += sign
        self.steps += sign * work.steps
        self.unknown += sign * (not work.steps)


def _blend(old: float, new: float) -> float:
    return old + _NEWEST_WEIGHT * (new - old)

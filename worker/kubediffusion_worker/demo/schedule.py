"""Learning rates over the steps of a training."""

import math
from collections.abc import Callable


def warmup_cosine(steps: int, *, warmup_steps: int = 100) -> Callable[[int], float]:
    """Return the share of the peak rate at a step: up in a line, down in half a cosine."""

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, done))

    return share

"""The process's global random generators, set for one run and put back after it."""

import contextlib
import random
from collections.abc import Iterator

import numpy
import torch


@contextlib.contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seeds all global generators, and restores them as they were at the end.

    Pipelines pass their own generator to most of what they draw, but not to all: stochastic
    solvers of some families, for example, draw from torch's global one. Seeded, they give the
    same result each time; restored, they disturb nobody.

    Args:
        seed: From 0 to 2**64 - 1.
    """
    python_state = random.getstate()
    numpy_state = numpy.random.get_state()
    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
        torch.set_rng_state(cpu_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)

import random

import numpy
import torch

from kubediffusion_worker import randomness


def draw() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def test_same_seed_draws_the_same() -> None:
    with randomness.isolated(5):
        first = draw()
    with randomness.isolated(5):
        second = draw()
    with randomness.isolated(6):
        third = draw()
    assert first == second != third


def test_generators_go_on_as_if_nothing_had_happened() -> None:
    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)
    undisturbed = [draw(), draw()]
    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)
    first = draw()
    with randomness.isolated(2**64 - 1):
        draw()
    assert [first, draw()] == undisturbed

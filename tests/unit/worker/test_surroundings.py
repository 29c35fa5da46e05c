import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy
import pytest
import torch

from kubediffusion_worker import surroundings


def draw() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def modes() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_dtype(),
        torch.empty(()).device.type,
        torch.ones(1, requires_grad=True).mul(2).requires_grad,
    )


def test_random_generators_go_on_where_they_were_set_aside() -> None:
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    expected = [draw(), draw()]
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    first = draw()
    resume = surroundings.set_aside()
    others = [draw() for _ in range(3)]
    resume()
    assert [first, draw()] == expected
    assert expected[1] == others[0]


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.float16),
        lambda: torch.device("meta"),
    ],
)
def test_mode_that_was_set_aside_is_not_seen_and_is_as_before_afterwards(
    mode: Callable[[], AbstractContextManager[object]],
) -> None:
    outside = modes()
    plain = surroundings.set_aside()
    with mode():
        inside = modes()
        resume = surroundings.set_aside()
        plain()
        assert modes() == outside
        other = surroundings.set_aside()
        resume()
        assert modes() == inside
    other()
    assert modes() == outside
    assert inside != outside


def test_two_that_take_turns_in_inference_mode_leave_it_in_any_order() -> None:
    outside = modes()
    hub = surroundings.set_aside()
    first, second = torch.inference_mode(), torch.inference_mode()
    first.__enter__()
    resume_first = surroundings.set_aside()
    hub()
    hub = surroundings.set_aside()
    second.__enter__()
    resume_second = surroundings.set_aside()
    resume_first()
    first.__exit__(None, None, None)
    hub()
    assert modes() == outside
    resume_second()
    assert torch.is_inference_mode_enabled()
    second.__exit__(None, None, None)
    hub()
    assert modes() == outside


def test_default_type_of_a_parked_computation_is_its_own() -> None:
    hub = surroundings.set_aside()
    torch.set_default_dtype(torch.float64)
    resume = surroundings.set_aside()
    hub()
    assert torch.get_default_dtype() is torch.float32
    resume()
    assert torch.get_default_dtype() is torch.float64
    hub()
    assert torch.get_default_dtype() is torch.float32

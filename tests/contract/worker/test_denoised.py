# diffusers exports lazily, and its annotations refuse its own defaults.
# pyright: reportPrivateImportUsage=false, reportAssignmentType=false
"""Estimates of finished latents, against what the loop really comes to."""

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

import zoo
from kubediffusion_worker import denoised, seams

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

SHAPE = (1, 4, 8, 8)

Maker = Callable[[], Any]  # Any: schedulers share no class that has `step`

TELLING: list[Maker] = [
    diffusers.DDIMScheduler,
    diffusers.EulerDiscreteScheduler,
    diffusers.HeunDiscreteScheduler,
    diffusers.LCMScheduler,
    diffusers.DPMSolverMultistepScheduler,
    diffusers.UniPCMultistepScheduler,
    diffusers.FlowMatchEulerDiscreteScheduler,
]
SILENT: list[Maker] = [diffusers.PNDMScheduler]


def run(scheduler: Any) -> tuple[list[torch.Tensor | None], torch.Tensor]:
    """Steps six times; returns all estimates and the final latents."""
    names = tuple(inspect.signature(scheduler.step).parameters)
    scheduler.set_timesteps(6)
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(SHAPE, generator=generator)
    sample = torch.randn(SHAPE, generator=generator)
    estimates = []
    for timestep in scheduler.timesteps:
        output = 0.7 * sample - 0.2 * target
        arguments = (output, timestep, sample)
        call = seams.StepCall(scheduler, type(scheduler).step, names, arguments, {})
        returned: Any = call.run()
        estimates.append(denoised.estimate(call, returned))
        sample = returned.prev_sample
    return estimates, sample


@pytest.mark.parametrize("maker", TELLING + SILENT)
def test_every_step_has_an_estimate_of_the_shape_of_the_latents(maker: Maker) -> None:
    estimates, _ = run(maker())
    assert all(each is not None and each.shape == SHAPE for each in estimates)


@pytest.mark.parametrize("maker", TELLING)
def test_the_last_estimate_is_nearly_what_the_loop_ends_with(maker: Maker) -> None:
    estimates, final = run(maker())
    assert estimates[-1] is not None
    assert float((estimates[-1] - final).abs().max()) < 0.2 * float(final.std())


def test_a_step_without_a_sample_has_none() -> None:
    call = seams.StepCall(object(), object, (), (), {})
    assert denoised.estimate(call, (torch.zeros(1),)) is None

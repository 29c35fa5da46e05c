# diffusers exports lazily, and its annotations refuse what its classes take.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""The schedulers that the pipelines of the zoo are tried with, by the names of the docs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import diffusers

import zoo_parts

OWN = "own"
"""The scheduler that the specimen comes with."""

STOCHASTIC_DDIM = "DDIM η=1"
"""DDIM with `eta=1`, for pipelines that have such an argument."""

_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_BETAS = zoo_parts.SD_BETAS


def _of(cls: type, **settings: object) -> Callable[[Mapping[str, object]], Any]:
    return lambda _shifting: cls(**settings)


def _shifted(cls: type, **settings: object) -> Callable[[Mapping[str, object]], Any]:
    return lambda shifting: cls(**settings, **shifting)


_beta = functools.partial(_of, **_BETAS)

DIFFUSION: Mapping[str, Callable[[Mapping[str, object]], Any]] = {
    "DDIM": _beta(diffusers.DDIMScheduler, clip_sample=False, set_alpha_to_one=False),
    STOCHASTIC_DDIM: _beta(diffusers.DDIMScheduler, clip_sample=False, set_alpha_to_one=False),
    "DDPM": _beta(diffusers.DDPMScheduler, clip_sample=False),
    "Euler": _beta(diffusers.EulerDiscreteScheduler),
    "Euler a": _beta(diffusers.EulerAncestralDiscreteScheduler),
    "DPM++ 2M": _beta(diffusers.DPMSolverMultistepScheduler),
    "DPM++ 2M SDE": _beta(diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
    "DPM single": _beta(diffusers.DPMSolverSinglestepScheduler),
    "DPM SDE": _beta(diffusers.DPMSolverSDEScheduler),
    "UniPC": _beta(diffusers.UniPCMultistepScheduler),
    "DEIS": _beta(diffusers.DEISMultistepScheduler),
    "SA": _beta(diffusers.SASolverScheduler),
    "Heun": _beta(diffusers.HeunDiscreteScheduler),
    "KDPM2": _beta(diffusers.KDPM2DiscreteScheduler),
    "KDPM2 a": _beta(diffusers.KDPM2AncestralDiscreteScheduler),
    "LMS": _beta(diffusers.LMSDiscreteScheduler),
    "PNDM": _beta(diffusers.PNDMScheduler, skip_prk_steps=True),
    "IPNDM": _of(diffusers.IPNDMScheduler, num_train_timesteps=1000),
    "LCM": _beta(diffusers.LCMScheduler),
    "TCD": _beta(diffusers.TCDScheduler),
}
"""For models that predict noise."""

FLOW: Mapping[str, Callable[[Mapping[str, object]], Any]] = {
    "Flow Euler": _shifted(diffusers.FlowMatchEulerDiscreteScheduler),
    "Flow Euler stochastic": _shifted(
        diffusers.FlowMatchEulerDiscreteScheduler, stochastic_sampling=True
    ),
    "Flow LCM": _shifted(diffusers.FlowMatchLCMScheduler),
    "Flow Heun": _of(diffusers.FlowMatchHeunDiscreteScheduler),
    "Flow UniPC": _shifted(diffusers.UniPCMultistepScheduler, **_FLOW),
    "Flow DPM++ 2M": _shifted(diffusers.DPMSolverMultistepScheduler, **_FLOW),
    "Flow DPM++ 2M SDE": _shifted(
        diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++", **_FLOW
    ),
    "Flow DEIS": _shifted(diffusers.DEISMultistepScheduler, **_FLOW),
    "Flow SA": _of(diffusers.SASolverScheduler, **_FLOW),
    "Heun": DIFFUSION["Heun"],
    "Euler a": DIFFUSION["Euler a"],
    "DDIM": DIFFUSION["DDIM"],
    "LCM": DIFFUSION["LCM"],
}
"""For models that predict a velocity, and a few that make no picture with these but run."""

COGVIDEOX: Mapping[str, Callable[[Mapping[str, object]], Any]] = {
    "CogVideoX DDIM": _of(diffusers.CogVideoXDDIMScheduler),
    "CogVideoX DPM": _of(diffusers.CogVideoXDPMScheduler),
}
"""For CogVideoX alone, which gives their steps other arguments."""


def build(name: str, replaced: Any) -> Any:
    """Returns a new scheduler.

    Args:
        name: Not `OWN`.
        replaced: The scheduler that it takes the place of; how that shifts is kept.
    """
    known = {**COGVIDEOX, **FLOW, **DIFFUSION}
    is_dynamic = bool(getattr(replaced.config, "use_dynamic_shifting", False))
    return known[name]({"use_dynamic_shifting": True} if is_dynamic else {})

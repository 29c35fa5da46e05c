"""Estimates of the finished latents, from what a scheduler's step sees anyway."""

import torch

from kubediffusion_worker import seams


def estimate(call: seams.StepCall, returned: object) -> torch.Tensor | None:
    """Returns what the latents would become if the denoiser was right in this very step.

    Schedulers that know it say so, in their history or beside the next sample; of the others
    it follows from the noise level, `x0 = x - sigma * v`, which holds for velocities of flow
    matching and for noise alike. Where nothing is known, the next sample itself stands in.

    Args:
        call: The step.
        returned: What the scheduler's `step` gave back.

    Returns:
        Of the sample's shape; None where the step has none.
    """
    sample = call.argument("sample")
    if not isinstance(sample, torch.Tensor):
        return None
    for found in (_of_history(call.scheduler), *_returned(returned)[1:], _of_noise(call, sample)):
        if isinstance(found, torch.Tensor) and found.shape == sample.shape:
            return found
    following = _returned(returned)
    if following and isinstance(following[0], torch.Tensor):
        return following[0]
    return None


def _returned(value: object) -> tuple[object, ...]:
    if isinstance(value, dict):  # diffusers' output classes are.
        return tuple(value.values())
    return value if isinstance(value, tuple) else (value,)


def _of_history(scheduler: object) -> object:
    """Returns what solvers that extrapolate predicted samples have kept."""
    history = getattr(scheduler, "model_outputs", None)
    algorithm = str(_config(scheduler, "algorithm_type", ""))
    predicts = bool(_config(scheduler, "predict_x0", False)) or "++" in algorithm
    return history[-1] if predicts and isinstance(history, list) and history else None


def _of_noise(call: seams.StepCall, sample: torch.Tensor) -> torch.Tensor | None:
    output = call.argument("model_output")
    sigmas = getattr(call.scheduler, "sigmas", None)
    index = getattr(call.scheduler, "step_index", None)
    if not isinstance(output, torch.Tensor) or output.shape != sample.shape:
        return None
    if not isinstance(sigmas, torch.Tensor) or sigmas.dim() != 1 or not isinstance(index, int):
        return None
    is_flow = "Flow" in type(call.scheduler).__name__ or bool(
        _config(call.scheduler, "use_flow_sigmas", False)
    )
    if not is_flow and _config(call.scheduler, "prediction_type", "") != "epsilon":
        return None
    # The step has moved the index on.
    sigma = float(sigmas[max(0, index - 1)])
    return sample.float() - sigma * output.float()


def _config(scheduler: object, name: str, default: object) -> object:
    config = getattr(scheduler, "config", {})
    return config.get(name, default) if hasattr(config, "get") else default

"""Checkpoints for tests: small, always the same, with every kind of value in them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers.schedulers import scheduling_ddim

from kubediffusion_worker import checkpoint, trees


def values() -> dict[str, Any]:
    """Return one value of each kind; tensors hold the same numbers each time."""
    latents = torch.arange(8, dtype=torch.float32).reshape(1, 2, 2, 2).div(8)
    return {
        "latents": latents.to(memory_format=torch.channels_last),
        "history": [latents.to(torch.bfloat16), None, (latents.double(), "a string", True)],
        "numbers": {0: 1.5, 1: float("nan"), 2: float("-inf"), 3: 2**100, 4: -1},
        "sigmas": np.arange(3, dtype=np.float16),
        "number": np.float32(0.1),
        "generator": torch.arange(4, dtype=torch.uint8),
        "types": (torch.float8_e5m2, torch.device("cpu"), torch.Size([1, 2])),
        "phase": torch.tensor(1 + 2j, dtype=torch.complex64),
        "nothing": torch.zeros(0, 3),
        "output": scheduling_ddim.DDIMSchedulerOutput(prev_sample=latents),
    }


def of(value: object, *, step: int = 3, extra: Mapping[str, Any] | None = None) -> bytes:
    """Return a checkpoint with a value."""
    tensors: dict[str, torch.Tensor] = {}
    node = trees.flatten(value, tensors, "value")
    whole = checkpoint.Checkpoint(
        step=step,
        fingerprint="f" * 64,
        spec_digest="5" * 64,
        weights_digest="e" * 64,
        seed=2**64 - 1,
        class_name="StableDiffusionPipeline",
        body={"value": node, **(extra or {})},
        tensors=tensors,
    )
    return checkpoint.encode(whole)


def every_kind() -> bytes:
    """Return a checkpoint with every kind of value and skeleton."""
    skeletons = [
        trees.skeleton_of(each) for each in (tuple(values().values()), values()["output"])
    ]
    return of(values(), extra={"skeletons": skeletons, "order": ["unet", 0, 1.5, None, False]})


def small() -> bytes:
    """Return a checkpoint with little in it: two tensors and a skeleton."""
    latents = torch.tensor([[0.5, -1.0], [2.0, 0.25]])
    value = {"latents": latents.t(), "generator": torch.arange(4, dtype=torch.uint8), "eta": 0.5}
    return of(value, extra={"calls": [["unet", trees.skeleton_of((latents,))]]})


def value_in(data: bytes) -> Any:
    """Return the value of a checkpoint."""
    read = checkpoint.decode(data)
    return trees.rebuild(read.body["value"], read.tensors, "cpu")

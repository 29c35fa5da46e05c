"""The tensors in an output, in order: what is kept of it beside how it looks."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

from kubediffusion_worker import output_classes


def signature(value: Any) -> Hashable:
    """Returns how an output looks, quickly; equal for outputs with equal skeletons."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.dtype, value.stride(), value.is_cpu)
    kind: Any = type(value)  # Any: classes are hashable, whatever they are of
    if kind is tuple or kind is list:
        return (kind, *map(signature, value))
    if kind is dict or isinstance(value, OrderedDict):
        return (kind, *((key, signature(each)) for key, each in value.items()))
    if value is None or kind in (bool, int, float, str):
        return (kind, value)
    return (kind,)


def of(value: Any) -> list[torch.Tensor]:
    """Returns the tensors in an output."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [leaf for each in value for leaf in of(each)]
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in of(each)]
    return []


def replaced(value: Any, replacement: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Returns an output that looks the same, with other tensors.

    Args:
        value: A tensor, or plain containers and outputs of diffusers and transformers.
        replacement: Called for each tensor, in the order of `of`.
    """
    if isinstance(value, torch.Tensor):
        return replacement(value)
    if type(value) in (tuple, list):
        return type(value)(replaced(each, replacement) for each in value)
    if type(value) is dict:
        return {key: replaced(each, replacement) for key, each in value.items()}
    name = output_classes.name_of(value)
    if name is None:
        return value
    fields = output_classes.fields_of(value).items()
    return output_classes.build(name, {key: replaced(each, replacement) for key, each in fields})

"""What a pipeline's own code carries from step to step in its variables.

Most pipelines carry nothing but latents, which the steps return. What else their innermost
loop sets and needs again is kept with a checkpoint; of everything else that they still need, a
sum is kept, which tells whether a run that goes on has come to the same.
"""

import ctypes
import hashlib
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from diffusers import configuration_utils
from diffusers.pipelines import pipeline_utils

from kubediffusion_worker import carried, fork, leaves, liveness

_FOREIGN = ("torch", "contextlib", "functools", "kubediffusion_worker")
_END = "kubediffusion_worker.execution"
_SAMPLED = 2**20
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Saved = list[dict[str, Any]]


class ChangedError(Exception):
    """Is raised when a pipeline's variables are not what they were."""


class Known:
    """Tensors that need not be kept: a run that goes on comes to them by itself."""

    def __init__(self, tensors: Iterable[torch.Tensor] = ()) -> None:
        """Takes note of tensors; they may be freed."""
        self._tensors = {id(each): weakref.ref(each) for each in tensors}

    def __contains__(self, value: object) -> bool:
        """Tells whether all tensors in a value are known, of which there must be one."""
        found = leaves.of(value)
        return bool(found) and all(self._is_known(each) for each in found)

    def _is_known(self, tensor: torch.Tensor) -> bool:
        reference = self._tensors.get(id(tensor))
        return reference is not None and reference() is tensor


def known_at(seam: types.FrameType) -> Known:
    """Returns the tensors in the variables of a pipeline before its loop has begun."""
    return Known(
        leaf
        for frame in _frames(seam)
        for value in frame.f_locals.values()
        for leaf in leaves.of(value)
    )


def capture(seam: types.FrameType, known: Sequence[Known], *, max_bytes: int) -> Saved:
    """Returns what the functions of a pipeline need to go on after a seam.

    Args:
        seam: Where the pipeline has called something.
        known: What need not be kept.
        max_bytes: Of an object of the pipeline; of larger ones only a sum is kept.
    """
    return [_of_frame(frame, known, max_bytes) for frame in _frames(seam)]


def restore(seam: types.FrameType, saved: Sequence[Mapping[str, Any]], *, is_strict: bool) -> None:
    """Makes the variables of the functions of a pipeline what they were at a seam.

    Args:
        seam: Where the pipeline has called something.
        saved: What was captured there.
        is_strict: Whether those that are made again must have come to the same.

    Raises:
        ChangedError: They have not, or other functions are running.
    """
    frames = list(_frames(seam))
    names = [frame.f_code.co_name for frame in frames]
    if names != [each["function"] for each in saved]:
        raise ChangedError
    for frame, each in zip(frames, saved, strict=True):
        found = frame.f_locals
        for name, part in each["parts"].items():
            if name not in found or not _is_part(found[name]):
                raise ChangedError
            carried.restore(found[name], part)
        if is_strict:
            for name, total in each["held"].items():
                value = found.get(name)
                now = carried.values_of(value, name) if _is_part(value) else value
                if total_of(now) != total:
                    raise ChangedError
        _set(frame, each["carried"])


def total_of(value: object) -> str:
    """Returns a sum of a value; empty for what nothing is known about."""
    if isinstance(value, torch.Tensor):
        return _total_of_tensor(value)
    if isinstance(value, numpy.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({','.join(map(total_of, value))})"
    if isinstance(value, dict):
        return f"dict({','.join(f'{_short(str(k))}:{total_of(v)}' for k, v in value.items())})"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return _short(value) if isinstance(value, str) else ""


def _of_frame(frame: types.FrameType, known: Sequence[Known], max_bytes: int) -> dict[str, Any]:
    needs = liveness.at(frame.f_code, frame.f_lasti)
    found = {name: value for name, value in frame.f_locals.items() if name in needs.live}
    sets = {
        name: value
        for name, value in found.items()
        if name in needs.carried
        and not any(value in each for each in known)
        and carried.is_plain(value)
    }
    parts = {
        name: carried.values_of(value, name) for name, value in found.items() if _is_part(value)
    }
    small = {name: part for name, part in parts.items() if _size(part) <= max_bytes}
    totals = {
        name: total_of(parts.get(name, value))
        for name, value in found.items()
        if name not in sets and name not in small
    }
    return {
        "function": frame.f_code.co_name,
        "carried": sets,
        "parts": small,
        "held": {name: total for name, total in totals.items() if total},
    }


def _size(part: Mapping[str, Any]) -> int:
    return sum(each.numel() * each.element_size() for each in leaves.of(part))


def _frames(seam: types.FrameType) -> Iterator[types.FrameType]:
    """Yields the pipeline's functions that are running, the innermost first."""
    frame: types.FrameType | None = seam
    while frame is not None and frame.f_globals.get("__name__") != _END:
        package = str(frame.f_globals.get("__name__", ""))
        if not package.startswith(_FOREIGN):
            yield frame
        frame = frame.f_back


def _set(frame: types.FrameType, values: Mapping[str, Any]) -> None:
    if not values:
        return
    frame.f_locals.update(values)
    if sys.version_info < (3, 13):
        # Until then, f_locals is a copy that has to be written back.
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def _is_part(value: object) -> bool:
    """Whether a value is a small object of a pipeline's own, such as a running average."""
    return carried.is_part(value) and not (
        isinstance(value, (pipeline_utils.DiffusionPipeline, configuration_utils.ConfigMixin))
        or fork.is_scheduler(value)
    )


def _total_of_tensor(tensor: torch.Tensor) -> str:
    look = f"{tensor.dtype}{tuple(tensor.shape)}"
    if not tensor.numel() or tensor.layout is not torch.strided:
        return look
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = plain.detach().reshape(-1)
    sample = flat[:: max(1, flat.numel() // _SAMPLED)].contiguous()
    whole = _INTEGERS.get(sample.element_size(), torch.uint8)
    numbers = sample.view(torch.uint8 if sample.dtype is torch.bool else whole)
    return f"{look}{int(numbers.sum(dtype=torch.int64))}"


def _short(text: str) -> str:
    # It may be a text of the user's.
    return hashlib.sha256(text.encode()).hexdigest()[:16]

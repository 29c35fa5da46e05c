"""How tensors lie in memory, and what their element types are called.

The memory layout is a part of a tensor's state: kernels are chosen by it, and other kernels
round otherwise.
"""

import math
from collections.abc import Mapping, Sequence

import torch

STORED_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}
"""The element types that every version of safetensors knows, by its names for them."""

_STORED_AS_BYTES = (
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
)

MAX_DIMENSIONS = 32
MAX_SIDE = 2**40
"""Elements along one dimension; more make sense in no checkpoint."""


def name_of(dtype: torch.dtype) -> str:
    """Returns torch's name of an element type, for example "bfloat16"."""
    return str(dtype).removeprefix("torch.")


STORED_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in STORED_DTYPES.items()}
"""safetensors' names of element types."""

BYTE_DTYPES: Mapping[str, torch.dtype] = {name_of(each): each for each in _STORED_AS_BYTES}
"""Element types that are stored as bytes, by torch's names."""

DTYPES: Mapping[str, torch.dtype] = {
    name_of(each): each for each in (*STORED_DTYPES.values(), *_STORED_AS_BYTES)
}
"""All element types that have a form as data, by torch's names."""


def is_shape(value: object) -> bool:
    """Tells whether something read from a file is a shape that a tensor may have."""
    return (
        isinstance(value, list)
        and len(value) <= MAX_DIMENSIONS
        and all(type(side) is int and 0 <= side <= MAX_SIDE for side in value)
        and math.prod(max(side, 1) for side in value) < 2**62
    )


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the strides, in elements, of a tensor whose last dimension varies fastest."""
    strides: list[int] = []
    step = 1
    for side in reversed(shape):
        strides.append(step)
        step *= max(side, 1)
    return tuple(reversed(strides))


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Tells whether strides give each element a place of its own and leave no gap.

    Such strides are a permutation of the contiguous ones; those of dimensions with one element
    are free, as they lead nowhere.
    """
    step = 1
    for stride, side in sorted(zip(strides, shape, strict=True)):
        if side > 1 and stride != step:
            return False
        step *= side
    return True


def own_strides(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """Returns the strides that a copy of a tensor shall have; None for contiguous ones.

    They are the tensor's own where it is dense; else its dimensions in the same order, without
    gaps.
    """
    if tensor.numel() == 0:
        return None
    copied = torch.empty_like(tensor, device="meta", memory_format=torch.preserve_format)
    strides = copied.stride()
    return None if strides == contiguous_strides(tensor.shape) else strides


def are_strides(value: object, shape: Sequence[int]) -> bool:
    """Tells whether something read from a file are strides for a tensor of that shape."""
    return (
        isinstance(value, list)
        and len(value) == len(shape)
        and all(type(stride) is int and 0 <= stride < 2**62 for stride in value)
        and 0 not in shape
        and is_dense(shape, value)
    )

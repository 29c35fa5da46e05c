"""Dense tensors as plain bytes, exchanged with numpy and, where it is loaded, torch."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

if TYPE_CHECKING:
    import numpy

MAX_RANK = 32
"""Axes of a tensor, at most; numpy of version 1 has no more."""

MAX_ELEMENTS = 2**48
"""Elements of a tensor, at most, axes of length zero left out: numpy multiplies in int64."""

ITEM_SIZES: Mapping[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
"""Bytes of one element by torch's name of the type."""

_TO_WIRE: Mapping[str, worker_pb2.DataType] = {
    "bool": worker_pb2.DATA_TYPE_BOOL,
    "uint8": worker_pb2.DATA_TYPE_UINT8,
    "int8": worker_pb2.DATA_TYPE_INT8,
    "int16": worker_pb2.DATA_TYPE_INT16,
    "int32": worker_pb2.DATA_TYPE_INT32,
    "int64": worker_pb2.DATA_TYPE_INT64,
    "float16": worker_pb2.DATA_TYPE_FLOAT16,
    "bfloat16": worker_pb2.DATA_TYPE_BFLOAT16,
    "float32": worker_pb2.DATA_TYPE_FLOAT32,
    "float64": worker_pb2.DATA_TYPE_FLOAT64,
}
_FROM_WIRE: Mapping[int, str] = {number: name for name, number in _TO_WIRE.items()}


@dataclass(frozen=True, slots=True)
class TensorData:
    """A dense tensor in C order, little-endian; checked when it is made.

    Raises:
        errors.InvalidRequestError: Type, shape and number of bytes do not agree.
    """

    dtype: str
    """torch's name, a key of `ITEM_SIZES`."""
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        check(self.dtype, self.shape, len(self.data))

    def to_numpy(self) -> "numpy.ndarray[Any, Any]":
        """Returns a writable copy; bfloat16, which numpy lacks, becomes float32 exactly."""
        import numpy

        flat: numpy.ndarray[Any, Any]
        if self.dtype == "bfloat16":
            upper = numpy.frombuffer(self.data, "<u2").astype(numpy.uint32) << 16
            flat = upper.view(numpy.float32)
        elif self.dtype == "bool":
            # Bytes other than 0 and 1 would be undefined behaviour in numpy.
            flat = numpy.frombuffer(self.data, "u1") != 0
        else:
            little = numpy.dtype(self.dtype).newbyteorder("<")
            flat = numpy.frombuffer(self.data, little).astype(self.dtype)
        return flat.reshape(self.shape)

    def to_torch(self) -> Any:  # torch is no dependency here, so its type cannot be named
        """Returns a torch tensor on the CPU with its own memory.

        Raises:
            RuntimeError: torch is not loaded in this process.
        """
        torch = sys.modules.get("torch")
        if torch is None:
            raise RuntimeError("torch is not loaded: import it first, or use to_numpy()")
        dtype = getattr(torch, self.dtype)
        if not self.data:
            return torch.empty(self.shape, dtype=dtype)
        if self.dtype == "bool":
            return torch.from_numpy(self.to_numpy())
        flat = torch.frombuffer(bytearray(self.data), dtype=dtype)
        return flat.reshape(self.shape)


def check(dtype: str, shape: tuple[int, ...], size: int, *, field: str = "tensor") -> None:
    """Refuses a type, a shape and a number of bytes that do not fit together.

    Raises:
        errors.InvalidRequestError: They do not; nothing has been allocated.
    """
    item_size = ITEM_SIZES.get(dtype)
    if item_size is None:
        raise errors.InvalidRequestError.at(
            field, f"must have a dtype among {', '.join(ITEM_SIZES)}; found {dtype!r}"
        )
    if len(shape) > MAX_RANK:
        raise errors.InvalidRequestError.at(
            field, f"must have at most {MAX_RANK} axes; found {len(shape)}"
        )
    if any(length < 0 for length in shape):
        raise errors.InvalidRequestError.at(
            field, f"must have no axis of negative length; found {shape}"
        )
    if math.prod(length for length in shape if length) > MAX_ELEMENTS:
        raise errors.InvalidRequestError.at(
            field, f"must have at most {MAX_ELEMENTS} elements; found shape {shape}"
        )
    wanted = math.prod(shape) * item_size
    if wanted != size:
        raise errors.InvalidRequestError.at(
            field, f"of dtype {dtype} and shape {shape} must have {wanted} bytes; found {size}"
        )


def from_numpy(array: "numpy.ndarray[Any, Any]", *, field: str = "tensor") -> TensorData:
    """Copies a numpy array.

    Raises:
        errors.InvalidRequestError: Its type cannot travel, for example objects or texts.
    """
    name = array.dtype.name
    if name not in ITEM_SIZES:
        raise errors.InvalidRequestError.at(
            field, f"must have a dtype among {', '.join(ITEM_SIZES)}; found {name!r}"
        )
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return TensorData(name, array.shape, little.tobytes("C"))


def from_torch(tensor: Any, *, field: str = "tensor") -> TensorData:  # see to_torch
    """Copies a torch tensor from whatever device it is on.

    Raises:
        errors.InvalidRequestError: Its type or layout cannot travel.
    """
    torch = sys.modules["torch"]
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in ITEM_SIZES or tensor.layout is not torch.strided:
        wanted = f"must be dense with a dtype among {', '.join(ITEM_SIZES)}"
        raise errors.InvalidRequestError.at(
            field, f"{wanted}; found {name!r}, layout {tensor.layout}"
        )
    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if name == "bfloat16":
        dense = dense.view(torch.int16)
    little = dense.numpy().astype(dense.numpy().dtype.newbyteorder("<"), copy=False)
    return TensorData(name, tuple(tensor.shape), little.tobytes("C"))


def to_message(tensor: TensorData) -> worker_pb2.Tensor:
    """Returns the form in which a tensor travels."""
    return worker_pb2.Tensor(dtype=_TO_WIRE[tensor.dtype], shape=tensor.shape, data=tensor.data)


def from_message(message: worker_pb2.Tensor, *, field: str = "tensor") -> TensorData:
    """Returns the tensor that a message holds.

    Raises:
        errors.InvalidRequestError: Type, shape and number of bytes do not agree.
    """
    dtype = _FROM_WIRE.get(message.dtype)
    if dtype is None:
        raise errors.InvalidRequestError.at(
            field, f"must have a known dtype; found the number {message.dtype}"
        )
    data = message.data
    check(dtype, tuple(message.shape), len(data), field=field)
    return TensorData(dtype, tuple(message.shape), data)


def dtype_to_wire(name: str) -> worker_pb2.DataType:
    """Returns the wire's number of torch's name of a type; KeyError where there is none."""
    return _TO_WIRE[name]


def dtype_from_wire(number: int) -> str:
    """Returns torch's name of the wire's number of a type; KeyError where there is none."""
    return _FROM_WIRE[number]

"""Python values as `Value` messages and back: exact, bounded, and without any code in them.

`decode(encode(value))` has the same types and bits as `value` for None, bool, int, float
(signed zero, infinities, NaN), str, bytes, list, tuple and dict with str keys. Arrays and
tensors come back as `tensors.TensorData`, pictures as `images.ImageData`. The order of a
dict's keys is not kept: they come back sorted.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images, tensors

MAX_DEPTH = 32
"""Levels of lists, tuples and dicts, at most; protobuf itself parses no more than 100 nested
messages, of which a dict takes three."""

MAX_BYTES = 8_000_000
"""Bytes of texts, data, tensors and pictures in one value, at most: one message of the wire."""

MAX_ITEMS = 1_000_000
"""Values inside of one value, at most."""

MAX_INTEGER_DIGITS = 4_000
"""Digits of an integer, at most; CPython refuses to read more than 4 300."""

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,3999}")
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueLimits:
    """Bounds on one value."""

    depth: int = MAX_DEPTH
    """Levels of lists, tuples and dicts."""
    size: int = MAX_BYTES
    """Bytes of all texts, data, tensors and pictures."""
    items: int = MAX_ITEMS
    """Values inside of the value."""


DEFAULT_LIMITS = ValueLimits()
"""What both ends hold to unless told otherwise."""


def encode(
    value: object, *, field: str = "value", limits: ValueLimits = DEFAULT_LIMITS
) -> worker_pb2.Value:
    """Returns the message of a Python value.

    Takes numpy arrays and scalars, Pillow images and torch tensors too.

    Args:
        value: What to send.
        field: The name of the value in errors.
        limits: Bounds; None of them is exceeded while encoding either.

    Raises:
        errors.InvalidRequestError: Something in it cannot travel, or it is nested too deeply.
        errors.MessageTooLargeError: It is too large.
    """
    message = worker_pb2.Value()
    _Encoder(limits).write(message, value, field, 0)
    return message


def decode(
    message: worker_pb2.Value, *, field: str = "value", limits: ValueLimits = DEFAULT_LIMITS
) -> object:
    """Returns the Python value of a message.

    Args:
        message: What came; nothing about it is trusted.
        field: The name of the value in errors.
        limits: Bounds, checked before anything is allocated.

    Raises:
        errors.InvalidRequestError: It holds something that is no value, or is too deep.
        errors.MessageTooLargeError: It is too large.
    """
    return _Decoder(limits).read(message, field, 0)


class _Budget:
    """Counts what one value holds, against its limits."""

    def __init__(self, limits: ValueLimits) -> None:
        self._limits = limits
        self._items = 0
        self._size = 0

    def take(self, field: str, *, depth: int = 0, size: int = 0) -> None:
        self._items += 1
        self._size += size
        if depth > self._limits.depth:
            raise errors.InvalidRequestError.at(
                field,
                f"must have at most {self._limits.depth} levels of lists and dicts; found more",
            )
        if self._items > self._limits.items:
            raise _too_large(field, f"{self._limits.items} values")
        if self._size > self._limits.size:
            raise _too_large(field, f"{self._limits.size} bytes")


class _Encoder:
    def __init__(self, limits: ValueLimits) -> None:
        self._budget = _Budget(limits)

    def write(self, target: worker_pb2.Value, value: object, field: str, depth: int) -> None:
        if isinstance(value, (list, tuple)):
            self._write_list(target.list, value, field, depth + 1)
        elif isinstance(value, Mapping):
            self._write_map(target.map, value, field, depth + 1)
        else:
            self._write_leaf(target, value, field)

    def _write_list(
        self,
        target: worker_pb2.ListValue,
        value: list[object] | tuple[object, ...],
        field: str,
        depth: int,
    ) -> None:
        self._budget.take(field, depth=depth)
        # Assigning also marks an empty list as present.
        target.is_tuple = isinstance(value, tuple)
        for index, item in enumerate(value):
            self.write(target.items.add(), item, f"{field}[{index}]", depth)

    def _write_map(
        self, target: worker_pb2.MapValue, value: Mapping[Any, object], field: str, depth: int
    ) -> None:
        self._budget.take(field, depth=depth)
        target.SetInParent()
        for key, item in value.items():
            if not isinstance(key, str):
                raise errors.InvalidRequestError.at(
                    field, f"must have keys of type str only; found {type(key).__name__}"
                )
            self._budget.take(field, size=len(_utf8(key, field)))
            self.write(target.entries[key], item, _child(field, key), depth)

    def _write_leaf(self, target: worker_pb2.Value, value: object, field: str) -> None:
        if value is None:
            target.null = worker_pb2.NULL_VALUE_UNSPECIFIED
        elif isinstance(value, bool):
            target.boolean = value
        elif isinstance(value, int):
            _write_integer(target, int(value), field)
        elif isinstance(value, float):
            target.number = value
        elif isinstance(value, str):
            self._budget.take(field, size=len(_utf8(value, field)))
            target.text = value
            return
        elif isinstance(value, (bytes, bytearray, memoryview)):
            self._budget.take(field, size=memoryview(value).nbytes)
            target.data = bytes(value)
            return
        else:
            self._write_foreign(target, value, field)
            return
        self._budget.take(field)

    def _write_foreign(self, target: worker_pb2.Value, value: object, field: str) -> None:
        value = _from_library(value, field)
        if isinstance(value, tensors.TensorData):
            self._budget.take(field, size=len(value.data))
            target.tensor.CopyFrom(tensors.to_message(value))
        elif isinstance(value, images.ImageData):
            self._budget.take(field, size=len(value.data))
            target.image.CopyFrom(images.to_message(value))
        elif isinstance(value, (bool, int, float, str, bytes)):
            self._write_leaf(target, value, field)
        else:
            raise errors.InvalidRequestError.at(field, _unknown_type(value))


class _Decoder:
    def __init__(self, limits: ValueLimits) -> None:
        self._budget = _Budget(limits)

    def read(self, message: worker_pb2.Value, field: str, depth: int) -> object:
        kind = message.WhichOneof("kind")
        if kind == "list":
            return self._read_list(message.list, field, depth + 1)
        if kind == "map":
            return self._read_map(message.map, field, depth + 1)
        return self._read_leaf(message, kind, field)

    def _read_list(
        self, message: worker_pb2.ListValue, field: str, depth: int
    ) -> list[object] | tuple[object, ...]:
        self._budget.take(field, depth=depth)
        items = [
            self.read(item, f"{field}[{index}]", depth) for index, item in enumerate(message.items)
        ]
        return tuple(items) if message.is_tuple else items

    def _read_map(self, message: worker_pb2.MapValue, field: str, depth: int) -> dict[str, object]:
        self._budget.take(field, depth=depth)
        result: dict[str, object] = {}
        for key in sorted(message.entries):
            self._budget.take(field, size=len(key))
            result[key] = self.read(message.entries[key], _child(field, key), depth)
        return result

    def _read_leaf(self, message: worker_pb2.Value, kind: str | None, field: str) -> object:
        if kind == "tensor":
            tensor = tensors.from_message(message.tensor, field=field)
            self._budget.take(field, size=len(tensor.data))
            return tensor
        if kind == "image":
            image = images.from_message(message.image, field=field)
            self._budget.take(field, size=len(image.data))
            return image
        if kind is None:
            raise errors.InvalidRequestError.at(
                field, "must hold a value of a known kind; found none"
            )
        value: object = None if kind == "null" else getattr(message, kind)
        size = len(value) if isinstance(value, (str, bytes)) else 0
        self._budget.take(field, size=size)
        if kind == "big_integer":
            return _read_big_integer(message.big_integer, field)
        return value


def _write_integer(target: worker_pb2.Value, value: int, field: str) -> None:
    if _INT64_MIN <= value <= _INT64_MAX:
        target.integer = value
        return
    # 3.33 bits are one digit; the exact check follows, on a number that is small by then.
    if value.bit_length() < 3.33 * MAX_INTEGER_DIGITS:
        text = str(value)
        if _INTEGER.fullmatch(text):
            target.big_integer = text
            return
    raise errors.InvalidRequestError.at(
        field, f"must have at most {MAX_INTEGER_DIGITS} digits; found {value.bit_length()} bits"
    )


def _read_big_integer(text: str, field: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        wanted = f"must be a decimal integer of at most {MAX_INTEGER_DIGITS} digits"
        raise errors.InvalidRequestError.at(field, f"{wanted}; found {len(text)} characters")
    return int(text)


def _from_library(value: Any, field: str) -> object:  # the libraries may not be there
    """Turns values of numpy, Pillow and torch into ours; none of these is imported for it."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return tensors.from_numpy(value, field=field)
        if isinstance(value, numpy.generic):
            return value.item()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return tensors.from_torch(value, field=field)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(value, pillow.Image):
        return images.from_pil(value, field=field)
    return value


def _unknown_type(value: object) -> str:
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    wanted = "must be None, bool, int, float, str, bytes, list, tuple, dict, array or image"
    hint = "; send it as a list" if isinstance(value, (set, frozenset, range)) else ""
    return f"{wanted}; found {name:.80}{hint}"


def _utf8(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidRequestError.at(
            field, "must be text that UTF-8 can express; found a lone surrogate"
        ) from error


def _child(field: str, key: str) -> str:
    return f"{field}.{key}" if len(key) <= 64 else f"{field}.{key[:64]}…"


def _too_large(field: str, bound: str) -> errors.MessageTooLargeError:
    description = f"must have at most {bound} in all"
    return errors.MessageTooLargeError(
        f"{field} {description}", violations=[errors.Violation(field, description)]
    )

"""Files of safetensors: written byte for byte the same each time, and read with suspicion.

The file is 8 bytes with the length of the header, the header, and the tensors without gaps. The
header is JSON: for each tensor its type, shape and range of bytes, and under `__metadata__`
strings of our own. The first of these is a sha256 of all other bytes of the file, so that any
change of any bit is found.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch

from kubediffusion_wire import errors
from kubediffusion_worker import layouts, nodes

_LENGTH_BYTES = 8
_DIGEST_CHARACTERS = 64
_BEFORE_DIGEST = b'{"__metadata__":{"sha256":"'
_DIGEST_BEGIN = _LENGTH_BYTES + len(_BEFORE_DIGEST)
_DIGEST_END = _DIGEST_BEGIN + _DIGEST_CHARACTERS
_DIGEST = re.compile(rb"[0-9a-f]{64}")
_MAX_METADATA = 64
_TENSOR_KEYS = frozenset({"dtype", "shape", "data_offsets"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is not even looked at because it is more than any checkpoint has."""

    max_bytes: int = 2_000_000_000
    """Of the file, and of all tensors that it refers to, counted as often as it does."""
    max_header_bytes: int = 16_000_000
    max_tensors: int = 65_536
    max_depth: int = 64
    """Of JSON objects and arrays within each other."""
    max_values: int = 1_000_000
    """Of JSON: upper bound for commas, colons and brackets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What stands before the tensors."""

    metadata: Mapping[str, str]
    """Without the digest."""
    ranges: Mapping[str, "Range"]
    """By the tensors' names."""
    length: int
    """Bytes of the file before the tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Where a tensor is, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    """In bytes, from the end of the header."""
    end: int


class Tensors(Mapping[str, torch.Tensor]):
    """The tensors of a file; each look-up makes a new one, nothing is copied before."""

    def __init__(self, ranges: Mapping[str, Range], section: memoryview) -> None:
        self._ranges = ranges
        self._section = section

    def __getitem__(self, name: str) -> torch.Tensor:
        found = self._ranges[name]
        stored = torch.empty(found.end - found.begin, dtype=torch.uint8)
        stored.numpy()[:] = np.frombuffer(self._section[found.begin : found.end], dtype=np.uint8)
        return stored.view(found.dtype).view(found.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def facts(self, name: str) -> nodes.TensorFacts | None:
        """Returns type and shape of a tensor without making it; None where there is none."""
        found = self._ranges.get(name)
        return None if found is None else (layouts.name_of(found.dtype), found.shape)

    def size(self, name: str) -> int:
        """Returns the bytes of a tensor without making it."""
        found = self._ranges[name]
        return found.end - found.begin


# ---------------------------------------------------------------- writing


def write(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Returns a file.

    Args:
        metadata: Strings of our own.
        tensors: Contiguous, of types in `layouts.STORED_NAMES`, on any device.
    """
    # Larger element types first, so that each tensor begins at a multiple of its own.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    head = _head(metadata, tensors, names)
    sections = [_bytes_of(tensors[name]) for name in names]
    digest = hashlib.sha256(head[:_DIGEST_BEGIN] + head[_DIGEST_END:])
    for section in sections:
        digest.update(section)
    sealed = head[:_DIGEST_BEGIN] + digest.hexdigest().encode() + head[_DIGEST_END:]
    return b"".join([sealed, *sections])


def _head(
    metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor], names: list[str]
) -> bytes:
    header: dict[str, object] = {"__metadata__": {"sha256": "0" * _DIGEST_CHARACTERS, **metadata}}
    begin = 0
    for name in names:
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": layouts.STORED_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    on_cpu = tensor.detach().to("cpu").contiguous()
    array: np.ndarray[Any, Any] = on_cpu.reshape(-1).view(torch.uint8).numpy()
    return array.data


# ---------------------------------------------------------------- reading


def read_header(data: memoryview, limits: Limits) -> Header:
    """Reads a file up to the tensors, and checks all that can be checked without these.

    Args:
        data: Of the format "B".
        limits: What is refused at once.

    Raises:
        errors.InvalidCheckpointError: Something is not as it must be.
    """
    if len(data) > limits.max_bytes:
        _refuse(f"it has more than {limits.max_bytes} bytes")
    if len(data) < _DIGEST_END:
        _refuse("it ends too early")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > min(limits.max_header_bytes, len(data) - _LENGTH_BYTES):
        _refuse("its header is too long")
    text = bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
    if not text.startswith(_BEFORE_DIGEST):
        _refuse("it is no file of this kind")
    fields = parse_json(text, limits)
    metadata = _metadata_of(fields)
    del metadata["sha256"]
    length += _LENGTH_BYTES
    ranges = _ranges_of(fields, len(data) - length, limits)
    return Header(metadata=metadata, ranges=ranges, length=length)


def verify(data: memoryview) -> None:
    """Compares the digest in a file with its bytes.

    Raises:
        errors.InvalidCheckpointError: They differ.
    """
    digest = hashlib.sha256(data[:_DIGEST_BEGIN])
    digest.update(data[_DIGEST_END:])
    if digest.hexdigest().encode() != bytes(data[_DIGEST_BEGIN:_DIGEST_END]):
        _refuse("its bytes do not match its digest")


def tensors_of(data: memoryview, header: Header) -> Tensors:
    """Returns the tensors of a file.

    Raises:
        errors.InvalidCheckpointError: A truth value is neither 0 nor 1.
    """
    section = data[header.length :]
    for found in header.ranges.values():
        if found.dtype is torch.bool and found.begin < found.end:
            part = np.frombuffer(section[found.begin : found.end], dtype=np.uint8)
            if part.max() > 1:
                _refuse("it has a truth value that is neither true nor false")
    return Tensors(header.ranges, section)


def parse_json(text: bytes | str, limits: Limits) -> dict[str, Any]:
    """Reads a JSON object; strictly, and without growing much beyond the text's own size.

    Raises:
        errors.InvalidCheckpointError: It is none; a key is there twice; it is too large.
    """
    counted = text.encode() if isinstance(text, str) else text
    if sum(map(counted.count, (b",", b":", b"[", b"{"))) > limits.max_values:
        _refuse("it has too many values")
    try:
        found = json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError.
        _refuse("its header is no JSON")
    if not isinstance(found, dict):
        _refuse("its header is no object")
    _check_depth(found, limits.max_depth)
    return found


def _check_depth(root: object, max_depth: int) -> None:
    pending = [(root, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > max_depth:
            _refuse("its header is nested too deeply")
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            pending.extend((each, depth + 1) for each in inner if isinstance(each, dict | list))


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _refuse("a key is there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"it has the number {name}")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        _refuse("it has a number that is too large")
    return number


def _metadata_of(fields: dict[str, Any]) -> dict[str, str]:
    metadata = fields.pop("__metadata__")
    if not isinstance(metadata, dict) or len(metadata) > _MAX_METADATA:
        _refuse("its metadata is no object")
    if not all(isinstance(each, str) for each in metadata.values()):
        _refuse("its metadata has something else than strings")
    if not _DIGEST.fullmatch(metadata["sha256"].encode(errors="replace")):
        _refuse("its digest is none")
    return metadata


def _ranges_of(fields: Mapping[str, Any], size: int, limits: Limits) -> dict[str, Range]:
    if len(fields) > limits.max_tensors:
        _refuse(f"it has more than {limits.max_tensors} tensors")
    ranges = {name: _range_of(name, field) for name, field in fields.items()}
    reached = 0
    for each in sorted(ranges.values(), key=lambda each: (each.begin, each.end)):
        if each.begin != reached:
            _refuse("its tensors overlap or leave gaps")
        reached = each.end
    if reached != size:
        _refuse("its tensors and its length do not agree")
    return ranges


def _range_of(name: str, field: object) -> Range:
    if not isinstance(field, dict) or field.keys() != _TENSOR_KEYS or len(name) > nodes.MAX_NAME:
        _refuse("a tensor is not described as it must be")
    shape, offsets = field["shape"], field["data_offsets"]
    dtype = layouts.STORED_DTYPES.get(field["dtype"]) if type(field["dtype"]) is str else None
    if dtype is None or not layouts.is_shape(shape) or not _are_offsets(offsets):
        _refuse("a tensor has a type, shape or range that there is not")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize or begin % dtype.itemsize:
        _refuse("the shape and the range of a tensor do not agree")
    return Range(dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _are_offsets(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(each) is int and each >= 0 for each in value)
    )


def _refuse(what: str) -> NoReturn:
    raise errors.InvalidCheckpointError(f"the checkpoint is unusable: {what}")

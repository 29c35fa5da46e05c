"""The nodes that values become in checkpoints, and what makes one valid.

A node is null, true, false, a string, a whole number of at most 64 bits, or an
object with one of these first keys:

- `$int`: hexadecimal, of any size; `$float`: C99's hexadecimal form, so exact,
- `$list`, `$tuple`: of nodes; `$size`: a `torch.Size`; `$dict`: pairs of a key and a node,
- `$tensor`: its name among the tensors; with `on` "device" where it was not on the CPU,
  `strides` where the layout is not the usual one, `as` its type where it is stored as bytes,
- `$array`: a numpy array, the rest like `$tensor`; `$number`: a numpy scalar, as [type, bytes],
- `$dtype`, `$device`: of torch, the latter "cpu" or "device", which is what then computes,
- `$output`: an output dataclass of diffusers or transformers, by name, with `fields`,
- `$zeros`: in skeletons alone, the shape of a tensor, with `dtype`, `on` and `strides`,
- `$opaque`: in skeletons alone, the name of a class that has no form as data.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kubediffusion_wire import errors
from kubediffusion_worker import layouts, output_classes

Node = Any
"""What `json` writes and reads, see above."""

TensorFacts = tuple[str, Sequence[int]]
"""torch's name of the element type, and the shape, of a stored tensor."""

NUMBERS: Mapping[str, int] = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}
"""numpy's element types that have a form as data, and their sizes in bytes."""

MAX_NAME = 300

_HEX = re.compile(r"-?0x[0-9a-f]{1,100000}", re.ASCII)
_FLOAT = re.compile(r"nan|-?inf|-?0x[01]\.[0-9a-f]{1,13}p[+-]\d{1,4}", re.ASCII)
_DIGITS = re.compile(r"(?:[0-9a-f]{2}){1,16}", re.ASCII)
_TENSOR_KEYS = frozenset({"on", "strides", "as"})
_ZEROS_KEYS = frozenset({"on", "strides", "dtype"})

Facts = Callable[[str], TensorFacts | None]
_Object = Mapping[str, Node]


def checked_literal(node: Node) -> Node:
    """Returns a node that stands for itself.

    Raises:
        errors.InvalidCheckpointError: It does not.
    """
    if node is None or type(node) in (bool, int, str):
        return node
    raise errors.InvalidCheckpointError("it has a node that this version does not know")


def check(node: Mapping[str, Node], facts: Facts) -> str:
    """Checks an object that was read from a file; of the nodes within, only that they are some.

    Args:
        node: What one of the keys of begins with "$".
        facts: Returns what is known of a stored tensor; None where there is none.

    Returns:
        The first key.

    Raises:
        errors.InvalidCheckpointError: It is no node.
    """
    key = next(iter(node), "")
    checker = _CHECKERS.get(key)
    if checker is None or not checker(node, node[key], facts):
        raise errors.InvalidCheckpointError(
            f"it has a node that this version does not know ({key[:20]!r})"
        )
    return key


def _only(key: str, is_valid: Callable[[Any], bool]) -> Callable[[_Object, Node, Facts], bool]:
    return lambda node, value, facts: node.keys() == {key} and is_valid(value)


def _is_node(value: Node) -> bool:
    return value is None or type(value) in (bool, int, str, dict)


def _are_nodes(value: Node) -> bool:
    return isinstance(value, list) and all(map(_is_node, value))


def _are_pairs(value: Node, kinds: tuple[type, ...]) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
        and all(type(key) in kinds and _is_node(each) for key, each in value)
        and len({key for key, _ in value}) == len(value)
    )


def _is_float(value: Node) -> bool:
    if not isinstance(value, str) or not _FLOAT.fullmatch(value):
        return False
    try:
        float.fromhex(value)
    except OverflowError:
        return False
    return True


def _is_number(value: Node) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, str) for each in value)
        and bool(_DIGITS.fullmatch(value[1]))
        and len(value[1]) == 2 * NUMBERS.get(value[0], 0)
    )


def _is_output(node: _Object, value: Node, facts: Facts) -> bool:
    return (
        node.keys() == {"$output", "fields"}
        and output_classes.is_name(value)
        and _are_pairs(node["fields"], (str,))
    )


def _is_tensor(node: _Object, value: Node, facts: Facts) -> bool:
    known = facts(value) if isinstance(value, str) else None
    if known is None or not node.keys() - {"$tensor", "$array"} <= _TENSOR_KEYS:
        return False
    dtype, shape = known
    if "as" in node:
        stored_as = layouts.BYTE_DTYPES.get(node["as"]) if isinstance(node["as"], str) else None
        if stored_as is None or dtype != "uint8" or list(shape[-1:]) != [stored_as.itemsize]:
            return False
        dtype, shape = node["as"], shape[:-1]
    return _has_place(node, shape) and ("$array" not in node or dtype in NUMBERS)


def _is_zeros(node: _Object, value: Node, facts: Facts) -> bool:
    return (
        node.keys() - {"$zeros"} <= _ZEROS_KEYS
        and layouts.is_shape(value)
        and isinstance(node.get("dtype"), str)
        and node["dtype"] in layouts.DTYPES
        and math.prod(value) < 2**40
        and _has_place(node, value)
    )


def _has_place(node: _Object, shape: Sequence[int]) -> bool:
    is_laid_out = "strides" not in node or layouts.are_strides(node["strides"], shape)
    return is_laid_out and node.get("on", "device") == "device"


_CHECKERS: Mapping[str, Callable[[_Object, Node, Facts], bool]] = {
    "$int": _only("$int", lambda each: isinstance(each, str) and bool(_HEX.fullmatch(each))),
    "$float": _only("$float", _is_float),
    "$list": _only("$list", _are_nodes),
    "$tuple": _only("$tuple", _are_nodes),
    "$dict": _only("$dict", lambda each: _are_pairs(each, (str, int))),
    "$size": _only("$size", layouts.is_shape),
    "$number": _only("$number", _is_number),
    "$dtype": _only("$dtype", lambda each: isinstance(each, str) and each in layouts.DTYPES),
    "$device": _only("$device", lambda each: each in ("cpu", "device")),
    "$output": _is_output,
    "$tensor": _is_tensor,
    "$array": _is_tensor,
    "$zeros": _is_zeros,
    "$opaque": _only("$opaque", lambda each: isinstance(each, str) and len(each) <= MAX_NAME),
}

KEYS = frozenset(_CHECKERS)
"""The first keys of nodes."""

"""Kinds of values, as parameters of a pipeline's call accept them.

Texts are never quoted here: they may be prompts.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, values

Violation = errors.Violation

_KINDS: Mapping[str, tuple[str, ...]] = {
    "boolean": ("bool",),
    "integer": ("int", "float"),
    "big_integer": ("int", "float"),
    "number": ("float",),
    "text": ("str",),
    "data": ("bytes",),
    "list": ("list", "tuple"),
    "map": ("dict",),
    "tensor": ("tensor",),
    "image": ("image",),
}
_KIND_NAMES: Mapping[str | None, str] = {
    None: "nothing",
    "null": "None",
    "boolean": "bool",
    "integer": "int",
    "big_integer": "int",
    "number": "float",
    "text": "str",
    "data": "bytes",
    "list": "list",
    "map": "dict",
    "tensor": "tensor",
    "image": "image",
}


def check(
    field: str, value: worker_pb2.Value, parameter: worker_pb2.Parameter | None
) -> Iterator[Violation]:
    """Finds what is wrong with the value of an argument.

    Args:
        field: The name of the argument in violations.
        value: What came; nothing about it is trusted.
        parameter: What the pipeline accepts; None where that is unknown.
    """
    broken = list(caught(functools.partial(values.decode, value, field=field)))
    if broken:
        yield from broken
        return
    kind = value.WhichOneof("kind")
    if parameter is not None and not _accepts(parameter, kind):
        wanted = [*parameter.kinds, *(["None"] if parameter.accepts_none else [])]
        yield Violation(field, f"must be of type {' or '.join(wanted)}; found {describe(value)}")
        return
    yield from _check_finite(field, value)


def _accepts(parameter: worker_pb2.Parameter, kind: str | None) -> bool:
    if kind == "null":
        return parameter.accepts_none or "any" in parameter.kinds or not parameter.kinds
    if kind is None:
        return False
    if not parameter.kinds or "any" in parameter.kinds:
        return True
    return any(accepted in parameter.kinds for accepted in _KINDS[kind])


def _check_finite(field: str, value: worker_pb2.Value) -> Iterator[Violation]:
    kind = value.WhichOneof("kind")
    if kind == "number" and not math.isfinite(value.number):
        yield Violation(field, f"must be a finite number; found {value.number!r}")
    elif kind == "list":
        for index, item in enumerate(value.list.items):
            yield from _check_finite(f"{field}[{index}]", item)
    elif kind == "map":
        for key in sorted(value.map.entries):
            yield from _check_finite(f"{field}.{key[:64]}", value.map.entries[key])


def describe(value: worker_pb2.Value) -> str:
    """Says what a value is without quoting texts, which may be prompts."""
    kind = value.WhichOneof("kind")
    name = _KIND_NAMES[kind]
    if kind in ("boolean", "integer", "number"):
        return f"{getattr(value, kind)!r} ({name})"
    if kind in ("text", "data"):
        return f"{name} of length {len(getattr(value, kind))}"
    if kind == "big_integer":
        return f"{name} of {len(value.big_integer)} digits"
    if kind == "list":
        return f"{'tuple' if value.list.is_tuple else 'list'} of {len(value.list.items)}"
    if kind == "map":
        return f"{name} of {len(value.map.entries)}"
    return name


def caught(action: Callable[[], object]) -> Iterator[Violation]:
    """Does something and gives the violations that it is refused with."""
    try:
        action()
    except errors.FixRequestError as error:
        yield from error.violations

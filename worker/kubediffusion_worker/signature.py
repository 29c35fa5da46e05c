"""What a pipeline's call accepts, read from its signature."""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy
import PIL.Image
import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import validation

ANY = "any"

_KIND_ORDER = ("bool", "int", "float", "str", "image", "tensor", "list", "dict", ANY)
_PICTURES = frozenset({"image", "images", "mask_image", "mask", "control_image", "video"})
_PICTURE_KINDS = frozenset({"image", "tensor", "list"})
_KINDS: Mapping[type, str] = {bool: "bool", int: "int", float: "float", str: "str"}


def call_parameters(pipeline_class: type) -> Mapping[str, inspect.Parameter]:
    """Returns the named parameters of a pipeline's call."""
    found = inspect.signature(_call_of(pipeline_class)).parameters
    return {
        name: parameter
        for name, parameter in found.items()
        if name != "self"
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def parameters(pipeline_class: type) -> tuple[worker_pb2.Parameter, ...]:
    """Describes what users may give to a pipeline's call.

    What the worker sets itself, such as the generator, is left out.
    """
    call = _call_of(pipeline_class)
    found = call_parameters(pipeline_class)
    return tuple(
        _describe(name, parameter, call, is_replaceable=embeddings_of(name) in found)
        for name, parameter in found.items()
        if name not in validation.WORKER_PARAMETERS
        and not _takes_function(_annotation(parameter, call))
    )


def embeddings_of(name: str) -> str:
    """Returns the parameter that may stand for a text, by diffusers' custom."""
    return f"{name}_embeds"


def union(
    first: Sequence[worker_pb2.Parameter], *others: Iterable[worker_pb2.Parameter]
) -> tuple[worker_pb2.Parameter, ...]:
    """Describes what at least one of several calls accepts.

    Only what the first one needs is required: the others are called on demand.
    """
    merged = {parameter.name: parameter for parameter in first}
    for parameter in (each for other in others for each in other):
        known = merged.get(parameter.name)
        merged[parameter.name] = worker_pb2.Parameter(
            name=parameter.name,
            kinds=_sorted_kinds({*parameter.kinds, *(known.kinds if known else ())}),
            is_required=known.is_required if known else False,
            accepts_none=parameter.accepts_none or (known.accepts_none if known else False),
        )
    return tuple(merged.values())


def _call_of(pipeline_class: type) -> Callable[..., object]:
    # On a class, plain attribute access could give the metaclass's `__call__`.
    call: Callable[..., object] = inspect.unwrap(
        inspect.getattr_static(pipeline_class, "__call__")
    )
    return call


def _describe(
    name: str,
    parameter: inspect.Parameter,
    call: Callable[..., object],
    *,
    is_replaceable: bool,
) -> worker_pb2.Parameter:
    kinds = _kinds(_annotation(parameter, call))
    if type(parameter.default) in _KINDS:
        kinds.add(_KINDS[type(parameter.default)])  # Some annotations are too narrow.
    if name in _PICTURES and kinds & _PICTURE_KINDS:
        kinds |= _PICTURE_KINDS  # Pipelines take more forms of them than they are annotated with.
    accepts_none = "none" in kinds or parameter.default is None or ANY in kinds
    return worker_pb2.Parameter(
        name=name,
        kinds=_sorted_kinds(kinds - {"none"}) or [ANY],
        is_required=parameter.default is parameter.empty and not is_replaceable,
        accepts_none=accepts_none,
    )


def _annotation(parameter: inspect.Parameter, call: Callable[..., object]) -> object:
    if parameter.annotation is parameter.empty:
        return typing.Any
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        # Annotations may be texts, which only the function's own module can resolve.
        hints = typing.get_type_hints(holder, globalns=getattr(call, "__globals__", {}))
    except (NameError, AttributeError, TypeError, SyntaxError):
        return typing.Any
    return hints[parameter.name]


def _takes_function(hint: object) -> bool:
    plain = typing.get_origin(hint) or hint
    return plain is Callable or any(_takes_function(each) for each in typing.get_args(hint))


def _kinds(hint: object) -> set[str]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return {kind for argument in typing.get_args(hint) for kind in _kinds(argument)}
    if origin is typing.Literal:
        return {kind for value in typing.get_args(hint) for kind in _kinds(type(value))}
    if origin is typing.Annotated:
        return _kinds(typing.get_args(hint)[0])
    plain = origin if origin is not None else hint
    return {_kind(plain)} if isinstance(plain, type) else {ANY}


def _kind(plain: type) -> str:
    if plain is type(None):
        return "none"
    if plain in _KINDS:
        return _KINDS[plain]
    if issubclass(plain, PIL.Image.Image):
        return "image"
    # torch.FloatTensor and its like are no subclasses of torch.Tensor.
    if issubclass(plain, (torch.Tensor, numpy.ndarray)) or isinstance(
        plain, type(torch.FloatTensor)
    ):
        return "tensor"
    if issubclass(plain, Mapping):
        return "dict"
    if issubclass(plain, (Sequence, set, frozenset)) or plain is Iterable:
        return "list"
    return ANY


def _sorted_kinds(kinds: Iterable[str]) -> list[str]:
    return sorted(set(kinds), key=_KIND_ORDER.index)

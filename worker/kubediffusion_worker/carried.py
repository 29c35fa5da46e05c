"""What objects of diffusers beside a loop carry from step to step, such as a guider's momentum."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from kubediffusion_worker import runs, trees

_CONFIG = "_internal_dict"
_PARTS = "parts"
_VALUES = "values"
_MAX_DEPTH = 4


def values_of(part: object, path: str, depth: int = 0) -> dict[str, Any]:
    """Returns what an object of diffusers holds, objects of diffusers in it included.

    Raises:
        runs.NotCapturableError: It holds something of which nothing is known.
    """
    values: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for name, value in vars(part).items():
        if name == _CONFIG or callable(value):
            continue
        if is_plain(value):
            values[name] = value
        elif is_part(value):
            if depth == _MAX_DEPTH:
                raise runs.NotCapturableError(f"{path}.{name} is nested too deeply")
            parts[name] = values_of(value, f"{path}.{name}", depth + 1)
    return {_VALUES: values, _PARTS: parts}


def restore(part: object, saved: Mapping[str, Any]) -> None:
    """Gives an object what it held."""
    vars(part).update(saved[_VALUES])
    for name, inner in saved[_PARTS].items():
        restore(vars(part)[name], inner)


def numbered(parts: Iterable[object]) -> dict[str, object]:
    """Returns each object once, by a name that is the same in each process."""
    unique = {id(part): part for part in parts}
    return {str(number): part for number, part in enumerate(unique.values())}


def is_plain(value: object) -> bool:
    """Tells whether a value has a form as data."""
    try:
        trees.flatten(value, {}, "value")
    except runs.NotCapturableError:
        return False
    return True


def is_part(value: object) -> bool:
    """Tells whether a value is an object of diffusers, but no module."""
    return (
        type(value).__module__.partition(".")[0] == "diffusers"
        and hasattr(value, "__dict__")
        and not isinstance(value, torch.nn.Module)
    )

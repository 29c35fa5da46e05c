"""The classes of outputs that checkpoints may name, and how to make them from fields.

They are the output dataclasses of diffusers and transformers. A class is looked up among the
modules that are loaded already: whatever makes such outputs has loaded the module of their
class, so a checkpoint makes a process import nothing. No code of a class is run either: its
`__init__` and `__post_init__` do nothing but put the fields where `build` puts them.
"""

import dataclasses
import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from diffusers.utils import outputs
from transformers.utils import generic

from kubediffusion_wire import errors

_NAME = re.compile(r"(?:diffusers|transformers)(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_MAX_NAME = 300
_BASES = (outputs.BaseOutput, generic.ModelOutput)


def name_of(value: object) -> str | None:
    """Returns the name of an output's class, "module:Class"; None for anything else."""
    cls = type(value)
    name = f"{cls.__module__}:{cls.__qualname__}"
    if not is_name(name) or _found(name) is not cls:
        return None
    return name


def is_name(value: object) -> bool:
    """Tells whether something read from a file may name a class of outputs."""
    return isinstance(value, str) and len(value) <= _MAX_NAME and bool(_NAME.fullmatch(value))


def fields_of(value: object) -> dict[str, object]:
    """Returns all fields of an output, those that are None included."""
    assert dataclasses.is_dataclass(value), "only instances that have a name are asked"
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def build(name: str, fields: Mapping[str, object]) -> object:
    """Makes an output.

    Args:
        name: Of its class, "module:Class".
        fields: The values of all fields.

    Raises:
        errors.InvalidCheckpointError: There is no such class of outputs, or it has other fields.
    """
    cls = _found(name) if is_name(name) else None
    if cls is None:
        raise errors.InvalidCheckpointError("it names a class that is no known output class")
    names = [field.name for field in dataclasses.fields(cls)]
    if set(names) != fields.keys():
        raise errors.InvalidCheckpointError(f"the fields of {cls.__qualname__} are other ones")
    made = cls.__new__(cls)
    for field in names:
        object.__setattr__(made, field, fields[field])
        if fields[field] is not None:
            OrderedDict.__setitem__(made, field, fields[field])
    return made


def _found(name: str) -> Any:
    module, _, attribute = name.partition(":")
    # Not getattr: modules that load lazily would import what is asked for.
    loaded = sys.modules.get(module)
    found = vars(loaded).get(attribute) if loaded is not None else None
    is_output = (
        isinstance(found, type)
        and issubclass(found, _BASES)
        and dataclasses.is_dataclass(found)
        and found.__module__ == module
        and found.__qualname__ == attribute
    )
    return found if is_output else None

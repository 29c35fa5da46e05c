"""Which executor class a configuration names."""

from __future__ import annotations

import difflib
import importlib
import inspect

from kubediffusion.executors import abstract

_EXTERNAL = "kubediffusion.executors.external.ExternalDiffusionExecutor"

BACKENDS = {
    "mp": "kubediffusion.executors.multiproc.MultiProcDiffusionExecutor",
    "uni": "kubediffusion.executors.uniproc.UniProcDiffusionExecutor",
    "external_launcher": _EXTERNAL,
    "external": _EXTERNAL,
}
"""Dotted path of the class by backend value; imported when it is chosen."""


def executor_class(backend: object) -> type[abstract.DiffusionExecutor]:
    """Return the class that a backend value names.

    Args:
        backend: One of `BACKENDS`, a dotted path "package.module.Class", or a class.

    Raises:
        ValueError: It is none of them, or the path cannot be imported.
        TypeError: It is a class, but not an executor.
    """
    if inspect.isclass(backend):
        return _checked(backend, backend.__qualname__)
    if not isinstance(backend, str) or not _is_known_or_path(backend):
        raise ValueError(_unsupported(backend))
    return _checked(_imported(BACKENDS.get(backend, backend)), backend)


def _is_known_or_path(backend: str) -> bool:
    words = backend.split(".")
    return backend in BACKENDS or (len(words) > 1 and all(word.isidentifier() for word in words))


def _unsupported(backend: object) -> str:
    valid = ", ".join(map(repr, BACKENDS))
    return (
        f"Unsupported distributed executor backend: {backend!r}; valid values are {valid}, a "
        "subclass of DiffusionExecutor, and its dotted path 'package.module.Class'"
    )


def _imported(path: str) -> object:
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"Unsupported distributed executor backend: {path!r}: cannot import "
            f"{module_name!r}: {error}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ValueError(
            f"Unsupported distributed executor backend: {path!r}: module {module_name!r} has no "
            f"{name!r}{_hint(name, module)}"
        ) from error


def _hint(name: str, module: object) -> str:
    near = difflib.get_close_matches(name, [n for n in vars(module) if not n.startswith("_")])
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _checked(found: object, name: str) -> type[abstract.DiffusionExecutor]:
    if inspect.isclass(found) and issubclass(found, abstract.DiffusionExecutor):
        return found
    raise TypeError(
        f"distributed_executor_backend must be a subclass of DiffusionExecutor; {name} is "
        f"{found!r}"
    )

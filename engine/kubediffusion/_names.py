"""Dataclasses whose unknown arguments get an error that names the nearest known ones."""

from __future__ import annotations

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def unknown_name(owner: str, name: str, value: object, known: Iterable[str]) -> str:
    """Return the text of an error about an unknown name."""
    from kubediffusion_wire import validation  # Late: only mistakes need it.

    names = sorted(known)
    near = validation.nearest(name, names)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
    )
    return f"{owner} has no parameter {name[:64]!r} (given {describe(value)}); {hint}"


def describe(value: object) -> str:
    """Return a value's text for an error; of texts, which may be prompts, only the type."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)[:40]
    return f"a value of type {type(value).__name__}"


def lenient(
    *,
    error: Callable[[str, str], Exception],
    aliases: Mapping[str, str],
    ignored: Mapping[str, str],
) -> Callable[[type[T]], type[T]]:
    """Make a dataclass explain unknown names, on construction and on assignment.

    Args:
        error: Makes the error about an unknown name, from the name and a text.
        aliases: Further spellings of fields.
        ignored: Names that are accepted without effect, with the reason to warn with.
    """

    def decorate(cls: type[T]) -> type[T]:
        known = frozenset(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]  # a dataclass
        names = _Names(cls.__name__, known, aliases, ignored, error)
        original = cls.__init__

        @functools.wraps(original)
        def init(self: T, *args: Any, **options: Any) -> None:  # Any: the dataclass checks
            kept, without_effect = names.sort(options)
            original(self, *args, **kept)
            _accept(self, without_effect, ignored)

        def set_attribute(self: T, name: str, value: object) -> None:
            field = aliases.get(name, name)
            if field in known or name.startswith("_"):
                object.__setattr__(self, field, value)
            elif field in ignored:
                _accept(self, {field: value}, ignored)
            else:
                raise names.unknown(name, value)

        setattr(cls, "__init__", init)  # noqa: B010 # mypy forbids the assignment
        setattr(cls, "__setattr__", set_attribute)  # noqa: B010 # the same
        return cls

    return decorate


@dataclasses.dataclass(frozen=True, slots=True)
class _Names:
    """What a dataclass does with each name; see `lenient`."""

    owner: str
    known: frozenset[str]
    aliases: Mapping[str, str]
    ignored: Mapping[str, str]
    error: Callable[[str, str], Exception]

    def sort(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields among options, and what is accepted without effect."""
        kept: dict[str, Any] = {}
        without_effect: dict[str, Any] = {}
        for name, value in options.items():
            field = self.aliases.get(name, name)
            if field != name and field in options:
                raise self.error(name, f"{self.owner} got both {name!r} and {field!r}")
            if field not in self.known and field not in self.ignored:
                raise self.unknown(name, value)
            (kept if field in self.known else without_effect)[field] = value
        return kept, without_effect

    def unknown(self, name: str, value: object) -> Exception:
        """Make the error about an unknown name."""
        text = unknown_name(self.owner, name, value, self.known | set(self.aliases))
        return self.error(name, text)


def _accept(target: object, options: Mapping[str, object], ignored: Mapping[str, str]) -> None:
    """Keep options that have no effect readable, and say once that they have none."""
    told = target.__dict__.setdefault("_told", set())
    for name, value in options.items():
        object.__setattr__(target, name, value)
    news = {name: ignored[name] for name, value in options.items() if value and name not in told}
    if not news:
        return
    told.update(news)
    reasons = "; ".join(f"{name!r} ({reason})" for name, reason in sorted(news.items()))
    warnings.warn(
        f"{type(target).__name__} accepts but does not honour {reasons}",
        UserWarning,
        stacklevel=_depth_of_caller(),
    )


def _depth_of_caller() -> int:
    """Return the stacklevel that points at the first frame outside this package."""
    depth = 1
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("kubediffusion."):
        frame = frame.f_back
        depth += 1
    return depth

"""Writes the tables of docs/reference that repeat what the code says about itself.

A page marks the place of a table:

    <!-- table: errors -->
    …
    <!-- end -->

Run without arguments it brings the pages up to date; with `--check` it changes nothing and
fails when a page is not.
"""

import ast
import dataclasses
import functools
import importlib
import inspect
import pathlib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

ROOT = pathlib.Path(__file__).parents[1]

_PLACE = re.compile(r"(<!-- table: ([\w.: -]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *(tuple(map(_cell, row)) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


# ---------------------------------------------------------------- fields of dataclasses


def fields_table(path: str) -> str:
    """Return the fields of a dataclass with their docstrings, by `module:Class`."""
    cls = _named(path)
    defaults = {field.name: _default(field) for field in dataclasses.fields(cls)}
    rows = [
        (_code(name), _code(annotation), _code(defaults[name]), text)
        for name, annotation, text in _documented_fields(cls)
        if name in defaults
    ]
    return table(("field", "type", "default", "meaning"), rows)


def attributes_table(path: str) -> str:
    """Return the attributes and properties of a class, by `module:Class`.

    Attributes are those of its docstring, else the annotated ones; constants are left out.
    """
    cls = _named(path)
    told = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", inspect.getdoc(cls) or "", re.MULTILINE)
    annotated = [(name, text) for name, _, text in _documented_fields(cls)]
    rows = [(_code(name), text) for name, text in [*(told or annotated), *_properties(cls)]]
    return table(("attribute", "meaning"), rows)


def _properties(cls: type) -> Iterator[tuple[str, str]]:
    for name, member in vars(cls).items():
        is_property = isinstance(member, property | functools.cached_property)
        if is_property and not name.startswith("_"):
            yield name, inspect.cleandoc(member.__doc__ or "").partition("\n\nRaises")[0]


def methods_table(path: str) -> str:
    """Return the public methods of a class with what they raise, by `module:Class`."""
    rows = [
        (_code(f"{name}{_arguments(method)}"), *_told(method))
        for name, method in inspect.getmembers(_named(path), inspect.isfunction)
        if not name.startswith("_")
    ]
    return table(("method", "meaning", "raises"), rows)


def _arguments(method: Callable[..., object]) -> inspect.Signature:
    signature = inspect.signature(method)
    _, *others = signature.parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in others]
    return inspect.Signature(plain)


def _told(method: Callable[..., object]) -> tuple[str, str]:
    text, _, raises = (inspect.getdoc(method) or "").partition("\n\nRaises:\n")
    names = re.findall(r"^ {4}(\w+):", raises, re.MULTILINE)
    return re.split(r"\n\n(?:Args|Returns):\n", text)[0], ", ".join(map(_code, names))


def _named(path: str) -> Any:  # Any: whatever the module has under that name
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return ""


def _documented_fields(cls: type) -> Iterator[tuple[str, str, str]]:
    """Yield name, annotation and docstring of each field, in the order of the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, ast.unparse(statement.annotation), _text_of(following)


def _text_of(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return str(statement.value.value)
    return ""


# ---------------------------------------------------------------- errors


def errors_table() -> str:
    """Return every error with its group, status code and reason."""
    errors = importlib.import_module("kubediffusion.errors")
    root = errors.KubediffusionError
    found = [cls for cls in _family(root) if cls is not root and cls.__bases__[0] is not root]
    groups = [cls.__name__ for cls in root.__subclasses__()]
    rows = [
        (_code(cls.__name__), _group(cls, root), cls.reason, cls.status_code, _occasion(cls))
        for cls in sorted(found, key=lambda cls: groups.index(_group(cls, root)))
    ]
    return table(("class", "group", "reason", "status code", "raised"), rows)


def _family(root: type) -> Iterator[type]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ in ("kubediffusion_wire.errors", "kubediffusion.errors"):
            yield from _family(child)


def _group(cls: type, root: type) -> str:
    return next(base.__name__ for base in cls.__mro__ if root in base.__bases__)


def _occasion(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].removeprefix("Is raised ")


# ---------------------------------------------------------------- wire

_RPC = re.compile(
    r"((?:^  // .*\n)+)^  rpc (\w+)\((stream )?\w+\) returns \((stream )?", re.MULTILINE
)


def calls_table() -> str:
    """Return the calls of the service with their comments in the definition."""
    path = ROOT / "proto" / "kubediffusion_proto" / "v1" / "worker.proto"
    rows = [
        (_code(name), _kind(ask, answer), comment.replace("//", ""))
        for comment, name, ask, answer in _RPC.findall(path.read_text(encoding="utf-8"))
    ]
    return table(("call", "kind", "meaning"), rows)


def _kind(ask: str, answer: str) -> str:
    return "client stream" if ask else "server stream" if answer else "unary"


# ---------------------------------------------------------------- command lines


def command_table(path: str) -> str:
    """Return usage, options and commands of a click command, by `module:attribute:words`."""
    place, _, words = path.rpartition(":")
    return "\n".join(_commands(_named(place), words))


def _commands(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _commands(found, f"{name} {child}")
        return
    usage = " ".join(piece for piece in command.collect_usage_pieces(context))
    yield f"### {name}\n"
    yield f"```text\n{name} {usage}\n```\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    if options := _options(command):
        yield options


def options_table(path: str) -> str:
    """Return the options of one click command, by `module:attribute`."""
    return _options(_named(path))


def _options(command: click.Command) -> str:
    options = [option for option in command.params if isinstance(option, click.Option)]
    rows = [_option_row(option) for option in options if not option.hidden]
    return table(("option", "default", "meaning"), rows) if rows else ""


def _option_row(option: click.Option) -> tuple[str, str, str]:
    value = "" if option.is_flag else _metavar(option)
    names = ", ".join(_code(name) for name in option.opts)
    return f"{names} {_code(value)}".strip(), _given(option), _help(option)


def _help(option: click.Option) -> str:
    text = option.help or ""
    return f"{text} May be repeated." if option.multiple and "repeated" not in text else text


def _metavar(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    name = option.type.name
    return "NUMBER" if name.startswith(("integer", "float")) else name.upper()


def _given(option: click.Option) -> str:
    default = option.default
    if option.is_flag or default is None or callable(default) or not str(default).strip():
        return ""
    is_plain = isinstance(default, int | float | str)
    return _code(str(default)) if is_plain else ""


# ---------------------------------------------------------------- metrics


def metrics_table() -> str:
    """Return the worker's metrics."""
    metrics = importlib.import_module("kubediffusion_worker.metrics").Metrics()
    families = [
        (collector.describe()[0], collector._labelnames)
        for collector in vars(metrics).values()
        if hasattr(collector, "describe")
    ]
    rows = [
        (_code(_exposed(family)), family.type, ", ".join(map(_code, labels)), family.documentation)
        for family, labels in families
    ]
    return table(("metric", "type", "labels", "meaning"), rows)


def _exposed(family: Any) -> str:  # Any: prometheus_client has no stubs for it
    return f"{family.name}_total" if family.type == "counter" else family.name


# ---------------------------------------------------------------- pages

TABLES: Mapping[str, Callable[..., str]] = {
    "fields": fields_table,
    "attributes": attributes_table,
    "errors": errors_table,
    "methods": methods_table,
    "metrics": metrics_table,
    "calls": calls_table,
    "commands": command_table,
    "options": options_table,
}


def brought_up_to_date(text: str) -> str:
    """Return the page with all its tables as the code has them now."""

    def fill(match: re.Match[str]) -> str:
        kind, _, argument = match.group(2).partition(" ")
        made = TABLES[kind](argument) if argument else TABLES[kind]()
        return f"{match.group(1)}\n{made}\n{match.group(3)}"

    return _PLACE.sub(fill, text)


def main(arguments: list[str]) -> int:
    """Write or check all pages; the exit status is 1 when a checked page is out of date."""
    outdated = 0
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (wanted := brought_up_to_date(text)) == text:
            continue
        if "--check" in arguments:
            outdated = 1
            print(f"{page.relative_to(ROOT)} is not what the code says; run: make reference")
        else:
            page.write_text(wanted, encoding="utf-8")
    return outdated


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What the demo draws."""

import pathlib

import click

DEFAULT = (
    "a red circle on a blue background",
    "a green triangle left of a yellow square",
    "a yellow star on a purple background",
    "a blue square above an orange circle",
    "a purple triangle on a yellow background",
    "a white star right of a red square on a black background",
    "an orange circle below a green star",
    "a black square on an orange background",
    "a yellow circle left of a white triangle on a blue background",
    "a red star above a black circle on a white background",
    "an orange triangle on a green background",
    "a green square left of a purple star",
)

LEAST = 4
"""Two to be done before the kill, one to be in the middle, one more to be waiting."""


def read(path: pathlib.Path | None) -> tuple[str, ...]:
    """Answer the prompts of a file, one a line, or our own.

    Raises:
        click.BadParameter: The file holds too few.
    """
    if path is None:
        return DEFAULT
    prompts = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if len(prompts) < LEAST:
        raise click.BadParameter(
            f"{str(path)!r} holds {len(prompts)} prompts; the demo needs {LEAST}, one a line",
            param_hint="'--prompts'",
        )
    return prompts

"""Where outputs are saved, and in which format."""

import pathlib
from collections.abc import Sequence

import click

FORMATS = ("png", "jpeg", "webp", "mp4")

_FORMAT_BY_SUFFIX = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".mp4": "mp4",
}
_SUFFIX_BY_FORMAT = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "mp4": ".mp4"}
_DEFAULT_STEM = "image"


def check_target(output: pathlib.Path, wanted: str | None) -> str:
    """Answer the format of files named after `output`, before any work is done.

    Args:
        output: A file, whose suffix says the format, or a folder that exists.
        wanted: A member of `FORMATS`, or None to go by the suffix.

    Raises:
        click.BadParameter: Suffix and format disagree, the suffix is unknown, or the folder
            does not exist.
    """
    folder = output if output.is_dir() else output.parent
    if not folder.is_dir():
        raise click.BadParameter(f"the folder {str(folder)!r} does not exist", param_hint="'-o'")
    suffix = "" if output.is_dir() else output.suffix.lower()
    if suffix and suffix not in _FORMAT_BY_SUFFIX:
        known = ", ".join(sorted(_FORMAT_BY_SUFFIX))
        raise click.BadParameter(
            f"{output.name!r} has no known suffix; known are {known}", param_hint="'-o'"
        )
    implied = _FORMAT_BY_SUFFIX.get(suffix)
    if wanted and implied and wanted != implied:
        raise click.BadParameter(
            f"{wanted!r} does not fit the suffix of {output.name!r}", param_hint="'--format'"
        )
    return wanted or implied or "png"


def names(output: pathlib.Path, number: int, format_name: str) -> tuple[pathlib.Path, ...]:
    """Name the files of several outputs: out-0.png, out-1.png; one alone is out.png.

    Args:
        output: As given to `check_target`.
        number: Of outputs.
        format_name: What `check_target` answered.
    """
    suffix = _SUFFIX_BY_FORMAT[format_name]
    if output.is_dir():
        output = output / _DEFAULT_STEM
    elif output.suffix:
        suffix = output.suffix
    stem = output.with_suffix("")
    if number == 1:
        return (stem.with_name(stem.name + suffix),)
    return numbered(stem, number, suffix)


def numbered(stem: pathlib.Path, number: int, suffix: str) -> tuple[pathlib.Path, ...]:
    """Number file names from 0, with as many digits as the last one needs."""
    width = len(str(number - 1))
    return tuple(stem.with_name(f"{stem.name}-{i:0{width}}{suffix}") for i in range(number))


def listing(paths: Sequence[pathlib.Path]) -> str:
    """Write several paths for people: all of a few, first and last of many."""
    if len(paths) <= 3:
        return ", ".join(str(path) for path in paths)
    return f"{paths[0]} … {paths[-1]} ({len(paths)} files)"

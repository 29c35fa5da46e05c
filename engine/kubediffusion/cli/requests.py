"""From what was typed to requests: pure, so that every mistake is told before any work."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import click

DEMO_MODEL = "demo"

DEMO_GUIDANCE_SCALE = 1.5
"""What the demo model draws best with; its pipeline's default suits larger models."""

DEMO_STEPS = 100
"""More than it needs: they take some seconds, so that there is something to watch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What all prompts of one command have in common; None leaves it to the pipeline."""

    steps: int | None = None
    seed: int | None = None
    height: int | None = None
    width: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    num_outputs: int | None = None
    num_frames: int | None = None
    strength: float | None = None
    image: pathlib.Path | None = None
    mask_image: pathlib.Path | None = None
    loras: tuple[tuple[str, float], ...] = ()
    extra_args: tuple[tuple[str, Any], ...] = ()  # Any: whatever JSON holds.
    encoding: str | None = None
    """What only a worker can write: mp4. Pictures come as pixels, which suit any format."""

    def fields(self) -> dict[str, Any]:  # Any: the fields have many types.
        """Answer the fields of an `OmniDiffusionRequest` that were given."""
        given = {
            "num_inference_steps": self.steps,
            "seed": self.seed,
            "height": self.height,
            "width": self.width,
            "guidance_scale": self.guidance_scale,
            "negative_prompt": self.negative_prompt,
            "num_outputs_per_prompt": self.num_outputs,
            "num_frames": self.num_frames,
            "strength": self.strength,
            "image": self.image,
            "mask_image": self.mask_image,
            "lora_request": list(self.loras) or None,
            "extra_args": dict(self.extra_args) or None,
            "encoding": self.encoding,
        }
        return {name: value for name, value in given.items() if value is not None}


def for_models(wanted: Wanted, models: Iterable[str]) -> Wanted:
    """Fill in what suits the demo model, if there is no other and the user did not say."""
    if set(models) != {DEMO_MODEL}:
        return wanted
    scale, steps = wanted.guidance_scale, wanted.steps
    return dataclasses.replace(
        wanted,
        guidance_scale=DEMO_GUIDANCE_SCALE if scale is None else scale,
        steps=DEMO_STEPS if steps is None else steps,
    )


def request_ids(given: str | None, number: int, drawn: Iterable[str]) -> tuple[str, ...]:
    """Name the requests of one command: ID for one prompt, ID-0, ID-1 … for several.

    Args:
        given: What the user wants as id.
        number: Of prompts.
        drawn: Random ids, taken where the user gave none.
    """
    if given is None:
        return tuple(name for name, _ in zip(drawn, range(number), strict=False))
    return (given,) if number == 1 else tuple(f"{given}-{i}" for i in range(number))


def parse_lora(text: str) -> tuple[str, float]:
    """Read NAME or NAME:SCALE.

    Raises:
        click.BadParameter: The scale is not a number.
    """
    name, colon, scale = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        return name, float(scale)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not NAME or NAME:SCALE") from None


def parse_setting(text: str) -> tuple[str, Any]:  # Any: whatever JSON holds.
    """Read KEY=VALUE, where the value is JSON, or a text if it is not.

    Raises:
        click.BadParameter: There is no key, or no equals sign.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value

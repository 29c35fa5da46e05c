# diffusers exports lazily, and its annotations refuse what its classes take, such as None for a
# text encoder or a tuple of several sizes.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""Tiny pipelines of many families with random weights, built in memory within seconds.

They show what the code around a pipeline does, not what a model can draw: every trap that a
family sets for step control is here as small as it gets.
"""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping

import diffusers
import torch

import zoo_dit
import zoo_flux
import zoo_ltx
import zoo_unet
import zoo_video
from zoo_specimen import Specimen

BUILDERS: Mapping[str, Callable[[], Specimen]] = {
    builder.__name__: builder
    for family in (zoo_unet, zoo_dit, zoo_flux, zoo_video, zoo_ltx)
    for builder in family.SPECIES
}
"""What builds the pipelines, by name."""

NAMES = tuple(BUILDERS)

FOREIGN_WARNINGS = (
    # diffusers' schedulers and numpy 2.
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    # Kandinsky's combined pipelines, on their own inner pipelines.
    "ignore:`callback_steps` is deprecated:FutureWarning",
)
"""What diffusers warns of when its own pipelines are called, as filters."""


@functools.cache
def shared(name: str) -> Specimen:
    """Returns a specimen that is built once in a process; leave it as it is."""
    return build(name)


def build(name: str) -> Specimen:
    """Returns a new specimen."""
    with warnings.catch_warnings():
        # diffusers and torch warn of their own old ways of building modules.
        warnings.simplefilter("ignore")
        return BUILDERS[name]()


def parameters(specimen: Specimen) -> Mapping[str, inspect.Parameter]:
    """Returns what the pipeline's call takes."""
    return inspect.signature(specimen.pipeline.__call__).parameters


def call_plainly(
    specimen: Specimen, *, seed: int = 0, steps: int = 3, output_type: str | None = None
) -> diffusers.utils.BaseOutput:
    """Calls a pipeline as a user of diffusers would, without any of our code.

    The global random generator is seeded too, for pipelines that draw from it.
    """
    accepted = parameters(specimen)
    arguments = dict(specimen.arguments)
    if "num_inference_steps" in accepted:
        arguments["num_inference_steps"] = steps
    if output_type is not None and "output_type" in accepted:
        arguments["output_type"] = output_type
    if "generator" in accepted:
        arguments["generator"] = torch.Generator("cpu").manual_seed(seed)
    torch.manual_seed(seed)
    specimen.pipeline.set_progress_bar_config(disable=True)
    return specimen.pipeline(**arguments)

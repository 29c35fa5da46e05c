# diffusers exports lazily, and its annotations refuse what its classes take, such as None for a
# text encoder or a tuple of several sizes.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""What a builder of the zoo returns."""

from dataclasses import dataclass

import diffusers


@dataclass(frozen=True, kw_only=True, slots=True)
class Specimen:
    """A tiny pipeline with random weights, and arguments that it can be called with."""

    pipeline: diffusers.DiffusionPipeline
    arguments: dict[str, object]
    """Everything but generator, num_inference_steps and output_type."""

"""Specifications for the pipelines of the zoo, and what plain diffusers makes of them."""

from typing import Any, cast

import numpy
import PIL.Image
import torch

import zoo
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import images, values
from kubediffusion_worker import runs
from zoo_specimen import Specimen

_NUMBERS = ("height", "width", "num_frames", "guidance_scale", "strength")
_TEXTS = ("prompt", "negative_prompt")
_IMAGES = ("image", "mask_image")


def spec_of(specimen: Specimen, *, steps: int = 3, **fields: Any) -> worker_pb2.GenerationSpec:
    """Returns a specification with the arguments of a specimen.

    Args:
        specimen: What it is for.
        steps: Of the denoising loop, where it has one.
        fields: Further fields of the specification, or other values for them.
    """
    spec = worker_pb2.GenerationSpec()
    if "num_inference_steps" in zoo.parameters(specimen):
        spec.num_inference_steps = steps
    for name, value in specimen.arguments.items():
        if value is None:
            continue  # Embeddings stand for it.
        if name in _NUMBERS or name in _TEXTS:
            setattr(spec, name, value)
        elif name in _IMAGES and isinstance(value, PIL.Image.Image):
            getattr(spec, name).CopyFrom(images.to_message(images.from_pil(value)))
        elif name != "batch_size":
            spec.extra_args[name].CopyFrom(values.encode(value))
    spec.MergeFrom(worker_pb2.GenerationSpec(**fields))
    return spec


def arrays_of_outputs(
    outputs: tuple[runs.OutputData, ...],
) -> list[numpy.ndarray[Any, numpy.dtype[Any]]]:
    """Returns raw outputs as arrays, bfloat16 as the int16 of the same bits."""
    return [
        numpy.frombuffer(
            output.data, "int16" if output.dtype == "bfloat16" else output.dtype
        ).reshape(output.shape)
        for output in outputs
    ]


def arrays_of_plain(returned: object) -> list[numpy.ndarray[Any, numpy.dtype[Any]]]:
    """Returns what plain diffusers has made, one array for each output."""
    fields = returned.items() if isinstance(returned, dict) else vars(returned).items()
    return [array for name, value in fields for array in _arrays(name, value)]


def _arrays(name: str, value: object) -> list[numpy.ndarray[Any, numpy.dtype[Any]]]:
    if isinstance(value, PIL.Image.Image):
        array = numpy.asarray(value)
        return [array if array.ndim == 3 else array[:, :, None]]
    if isinstance(value, torch.Tensor):
        value = value.view(torch.int16) if value.dtype is torch.bfloat16 else value
        return list(value.numpy())
    if isinstance(value, numpy.ndarray):
        if name != "frames":
            return [value]
        # As diffusers turns arrays into pictures.
        return [(each * 255).round().astype("uint8") for each in value]
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [numpy.stack([numpy.asarray(frame) for frame in frames]) for frames in value]
    if isinstance(value, list) and value and not isinstance(value[0], bool):
        return [array for item in cast("list[object]", value) for array in _arrays(name, item)]
    return []

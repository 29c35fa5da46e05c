"""The smallest request that a pipeline can serve, found from its signature and its parts."""

import inspect
from collections.abc import Iterator, Mapping

import PIL.Image

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import images, values
from kubediffusion_worker import signature

STEPS = 4
"""Enough for a first, a middle and a last boundary, and for solvers that look back."""

_PROMPT = "a photo of a cat"
_SIDES = (64, 128, 256, 512)
"""Pixels; what is too small for a pipeline's patches or attention windows makes it raise."""
_FRAMES = (5, 9, 17, 25)
"""Video autoencoders want a multiple of four or eight, and one."""
_CHOSEN = frozenset({"prompt", "height", "width", "num_frames", "image", "mask_image"})
_STEP_NAMES = ("num_inference_steps", "prior_num_inference_steps", "decoder_num_inference_steps")
_PICTURES = ("image", "mask_image", "control_image", "conditioning_image", "reference_image")
_CLIPS = ("video",)
_LABELS = ("class_labels",)
_WISHES: Mapping[str, object] = {
    # Sizes as they are asked for, not the nearest one of a list.
    "use_resolution_binning": False,
    "processing_resolution": 64,
}


def requests(
    parameters: Mapping[str, inspect.Parameter],
) -> Iterator[worker_pb2.GenerationSpec]:
    """Yields requests to try in turn, the cheapest first.

    Args:
        parameters: Of the pipeline's call.

    Yields:
        Nothing where the call needs something that cannot be made up.
    """
    if not all(_can_be_made_up(name) for name in _required(parameters)):
        return
    is_sized = {"height", "width"} <= set(parameters)
    for side in _SIDES:
        for frames in _FRAMES if "num_frames" in parameters else (0,):
            yield _request(parameters, side=side, frames=frames, is_sized=is_sized)
    if is_sized:  # Those that take no other size than their own.
        yield _request(parameters, side=_SIDES[-1], frames=0, is_sized=False)


def _required(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and signature.embeddings_of(name) not in parameters
    ]


def _can_be_made_up(name: str) -> bool:
    known = {*_CHOSEN, *_STEP_NAMES, *_PICTURES, *_CLIPS, *_LABELS}
    return name in known or name.startswith("prompt")


def _request(
    parameters: Mapping[str, inspect.Parameter], *, side: int, frames: int, is_sized: bool
) -> worker_pb2.GenerationSpec:
    spec = worker_pb2.GenerationSpec()
    if "prompt" in parameters:
        spec.prompt = _PROMPT
    if is_sized:
        spec.height = spec.width = side
    if frames:
        spec.num_frames = frames
    _add_steps(spec, parameters)
    required = _required(parameters)
    for name in _PICTURES:
        if name in required or (name in parameters and name in _CHOSEN):
            _add_picture(spec, name, side)
    for name in required:
        _add_other(spec, name, side)
    for name in set(_WISHES).intersection(parameters):
        spec.extra_args[name].CopyFrom(values.encode(_WISHES[name]))
    return spec


def _add_steps(
    spec: worker_pb2.GenerationSpec, parameters: Mapping[str, inspect.Parameter]
) -> None:
    own, *others = _STEP_NAMES
    if own in parameters:
        spec.num_inference_steps = STEPS
    for name in others:
        if name in parameters:
            spec.extra_args[name].CopyFrom(values.encode(STEPS))


def _add_picture(spec: worker_pb2.GenerationSpec, name: str, side: int) -> None:
    mode = "L" if name.startswith("mask") else "RGB"
    picture = PIL.Image.linear_gradient("L").resize((side, side)).convert(mode)
    if name in _CHOSEN:
        getattr(spec, name).CopyFrom(images.to_message(images.from_pil(picture)))
    else:
        spec.extra_args[name].CopyFrom(values.encode(picture))


def _add_other(spec: worker_pb2.GenerationSpec, name: str, side: int) -> None:
    if name in _LABELS:
        spec.extra_args[name].CopyFrom(values.encode([0]))
    elif name in _CLIPS:
        picture = PIL.Image.linear_gradient("L").resize((side, side)).convert("RGB")
        spec.extra_args[name].CopyFrom(values.encode([picture] * _FRAMES[0]))
    elif name.startswith("prompt") and name not in _CHOSEN:
        spec.extra_args[name].CopyFrom(values.encode(_PROMPT))

"""From a specification to the arguments of a pipeline's call."""

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images, tensors, validation, values
from kubediffusion_worker import outputs, signature, variants

_NO_LIMITS = worker_pb2.Limits(
    **dict.fromkeys(
        (
            "max_height",
            "max_width",
            "max_steps",
            "max_frames",
            "max_outputs",
            "max_prompt_bytes",
        ),
        2**31 - 1,
    )
)
_PLAIN_FIELDS = (
    "prompt",
    "negative_prompt",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "num_frames",
    "strength",
)
_IMAGE_FIELDS = ("image", "mask_image")
_IMAGE_MODES = ("L", "LA", "RGB", "RGBA")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineCall:
    """What a pipeline is called with. Each output is a call of its own.

    A list of generators in one call would give other bits than single calls: matrix products
    of other shapes round differently.
    """

    task: variants.Task
    arguments: Mapping[str, object]
    """All but the generator, which differs from output to output."""
    num_outputs: int
    takes_generator: bool
    generator_device: str
    """A torch device."""
    output_type: worker_pb2.OutputType
    secrets: frozenset[str]
    """Texts of the request."""


def check(
    spec: worker_pb2.GenerationSpec, calls: Mapping[variants.Task, variants.TaskCall]
) -> variants.Task:
    """Refuses what a pipeline cannot be called with; returns the task that is asked for.

    Bounds on sizes and counts are not checked: they are those of the runtime.

    Raises:
        errors.InvalidRequestError: With all violations that were found.
    """
    task = _task(spec, calls)
    parameters = calls[task].parameters
    violations = [
        *validation.check_spec(spec, parameters, _NO_LIMITS),
        *outputs.check_options(spec.output, {parameter.name for parameter in parameters}),
    ]
    if violations:
        raise errors.InvalidRequestError.of(violations)
    return task


def prepare(
    spec: worker_pb2.GenerationSpec,
    calls: Mapping[variants.Task, variants.TaskCall],
    *,
    device: str,
) -> PipelineCall:
    """Turns a specification into a call. Only what was given is passed.

    Args:
        spec: What the user asked for.
        calls: How the pipeline can be called.
        device: Where tensors are put; also what `generator_device="device"` means.

    Raises:
        errors.InvalidRequestError: With all violations that were found.
    """
    task = check(spec, calls)
    accepted = calls[task].signature
    arguments: dict[str, object] = {}
    for field in _PLAIN_FIELDS:
        if spec.HasField(field):
            arguments[_parameter(field, accepted)] = getattr(spec, field)
    for field in _IMAGE_FIELDS:
        if spec.HasField(field):
            arguments[_parameter(field, accepted)] = _image(getattr(spec, field), field)
    for name, value in spec.extra_args.items():
        field = f"extra_args.{name}"
        decoded = values.decode(value, field=field)
        arguments[name] = _argument(decoded, field=field, device=device)
    arguments.update(_displaced_texts(arguments, accepted))
    arguments.update(outputs.call_arguments(spec.output.type, accepted))
    return PipelineCall(
        task=task,
        arguments=arguments,
        num_outputs=max(spec.num_outputs, 1),
        takes_generator="generator" in accepted,
        generator_device=device if spec.generator_device == "device" else "cpu",
        output_type=spec.output.type or worker_pb2.OUTPUT_TYPE_UINT8,
        secrets=frozenset(_texts(arguments)),
    )


def _task(
    spec: worker_pb2.GenerationSpec, calls: Mapping[variants.Task, variants.TaskCall]
) -> variants.Task:
    image, mask_image = (
        spec.HasField(field) or field in spec.extra_args for field in _IMAGE_FIELDS
    )
    return variants.choose(calls, has_image=image, has_mask=mask_image)


def _parameter(field: str, accepted: Collection[str]) -> str:
    return validation.parameter_of(field, accepted) or field


def _image(message: worker_pb2.Image, field: str) -> object:
    return _picture(images.from_message(message, field=field), field)


def _picture(data: images.ImageData, field: str) -> object:
    picture = data.to_pil(field=field)
    # Files may have palettes or colour spaces that no pipeline expects.
    return picture if picture.mode in _IMAGE_MODES else picture.convert("RGB")


def _argument(value: object, *, field: str, device: str) -> object:
    """Rebuilds what users of diffusers would pass."""
    rebuild = functools.partial(_argument, field=field, device=device)
    if isinstance(value, tensors.TensorData):
        tensor: torch.Tensor = value.to_torch()
        return tensor.to(device)
    if isinstance(value, images.ImageData):
        return _picture(value, field)
    if isinstance(value, (list, tuple)):
        return type(value)(rebuild(item) for item in value)
    if isinstance(value, dict):
        return {key: rebuild(item) for key, item in value.items()}
    return value


def _displaced_texts(
    arguments: Mapping[str, object], accepted: Collection[str]
) -> Iterator[tuple[str, None]]:
    """Yields texts that embeddings stand for: some have a default, and both are refused."""
    for name in ("prompt", "negative_prompt"):
        if (
            signature.embeddings_of(name) in arguments
            and name in accepted
            and name not in arguments
        ):
            yield name, None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)

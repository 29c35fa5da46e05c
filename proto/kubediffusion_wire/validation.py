"""Checks of a specification, by the engine before it is sent and by the worker again.

Everything here is pure: it takes messages and returns violations.
"""

import difflib
import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers, images, kinds

Violation = errors.Violation

SPEC_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "negative_prompt": ("negative_prompt",),
    "height": ("height",),
    "width": ("width",),
    "num_inference_steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale",),
    "num_outputs": (
        "num_images_per_prompt",
        "num_videos_per_prompt",
        "num_waveforms_per_prompt",
        "batch_size",
    ),
    "num_frames": ("num_frames", "video_length"),
    "strength": ("strength",),
    "image": ("image",),
    "mask_image": ("mask_image",),
}
"""The parameters of a pipeline's call that a field of the specification stands for; the first
one that the pipeline has is meant."""

WORKER_PARAMETERS: Mapping[str, str] = {
    "generator": "use seed and generator_device",
    "output_type": "use output",
    "return_dict": "leave it out",
    "callback": "watch the events",
    "callback_steps": "watch the events",
    "callback_on_step_end": "watch the events",
    "callback_on_step_end_tensor_inputs": "watch the events",
}
"""Parameters that the worker sets itself, and what to do instead."""

_PICTURES = ("image", "mask_image")

MAX_EXTRA_ARGS = 256
MAX_ADAPTERS = 64
MAX_FRAMES_PER_SECOND = 240.0

_SEED_END = 2**64


def default_limits() -> worker_pb2.Limits:
    """Returns the bounds of a worker that is told nothing else."""
    return worker_pb2.Limits(
        max_height=4096,
        max_width=4096,
        max_steps=1000,
        max_frames=1024,
        max_outputs=64,
        max_prompt_bytes=32_768,
        max_queued=1024,
        max_retained_bytes=2 * 2**30,
    )


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Returns the up to three known names that look most like a name, best first."""
    return difflib.get_close_matches(name[:128], sorted(known), n=3, cutoff=0.6)


def check_spec(
    spec: worker_pb2.GenerationSpec,
    parameters: Sequence[worker_pb2.Parameter],
    limits: worker_pb2.Limits,
    *,
    models: Collection[str] = (),
) -> list[Violation]:
    """Finds everything that is wrong with a specification.

    Args:
        spec: What the user asked for.
        parameters: What the pipeline's call accepts; empty where that is unknown, which
            leaves names and types unchecked.
        limits: Bounds of the worker; 0 stands for the default of that bound.
        models: Names that the worker's model answers to; empty leaves `spec.model` unchecked.

    Returns:
        The violations, in the order of the fields; empty for a good specification. No text in
        them is taken from a prompt or another text of the user, but for names of parameters.
    """
    bounds = default_limits()
    bounds.MergeFrom(limits)
    return [
        *_check_model(spec, models),
        *_check_texts(spec, bounds),
        *_check_numbers(spec, bounds),
        *_check_seed(spec),
        *_check_images(spec),
        *_check_adapters(spec),
        *_check_output(spec.output),
        *_check_accepted(spec, parameters),
        *_check_extra_args(spec, parameters),
        *_check_required(spec, parameters),
    ]


def parameter_of(field: str, names: Collection[str]) -> str | None:
    """Returns the parameter that stands for a field of the specification.

    Args:
        field: A key of SPEC_PARAMETERS.
        names: What the pipeline's call accepts.
    """
    return next((name for name in SPEC_PARAMETERS[field] if name in names), None)


def _check_model(spec: worker_pb2.GenerationSpec, models: Collection[str]) -> Iterator[Violation]:
    if spec.model and models and spec.model not in models:
        wanted = " or ".join(repr(name) for name in sorted(models))
        yield Violation(
            "model",
            f"must be {wanted}; found {_short(spec.model)}; leave it out for the resident model",
        )


def _check_texts(
    spec: worker_pb2.GenerationSpec, limits: worker_pb2.Limits
) -> Iterator[Violation]:
    for field in ("prompt", "negative_prompt"):
        size = len(getattr(spec, field).encode())
        if size > limits.max_prompt_bytes:
            yield Violation(
                field, f"must have at most {limits.max_prompt_bytes} bytes of UTF-8; found {size}"
            )
    if spec.generator_device not in ("", "cpu", "device"):
        yield Violation(
            "generator_device",
            f'must be "cpu" or "device"; found {_short(spec.generator_device)}',
        )


def _check_numbers(
    spec: worker_pb2.GenerationSpec, limits: worker_pb2.Limits
) -> Iterator[Violation]:
    bounds: tuple[tuple[str, float, float, str], ...] = (
        ("height", 1, limits.max_height, "pixels"),
        ("width", 1, limits.max_width, "pixels"),
        ("num_inference_steps", 1, limits.max_steps, "steps"),
        ("num_outputs", 1, limits.max_outputs, "outputs"),
        ("num_frames", 1, limits.max_frames, "frames"),
        ("guidance_scale", -math.inf, math.inf, ""),
        ("strength", 0, 1, ""),
    )
    for field, lowest, highest, unit in bounds:
        if spec.HasField(field):
            yield from _check_range(field, getattr(spec, field), lowest, highest, unit)


def _check_range(
    field: str, value: float, lowest: float, highest: float, unit: str = ""
) -> Iterator[Violation]:
    if not math.isfinite(value):
        yield Violation(field, f"must be a finite number; found {value!r}")
    elif not lowest <= value <= highest:
        wanted = f"must be from {lowest} to {highest} {unit}".rstrip()
        yield Violation(field, f"{wanted}; found {value!r}")


def _check_seed(spec: worker_pb2.GenerationSpec) -> Iterator[Violation]:
    outputs = max(spec.num_outputs, 1)
    if spec.seed + outputs > _SEED_END:
        yield Violation(
            "seed",
            f"must be below 2**64 for every output (seed + {outputs - 1}); found {spec.seed}",
        )


def _check_images(spec: worker_pb2.GenerationSpec) -> Iterator[Violation]:
    for field, image in (("image", spec.image), ("mask_image", spec.mask_image)):
        if spec.HasField(field):
            yield from kinds.caught(functools.partial(images.check_message, image, field=field))
    if spec.HasField("mask_image") and not spec.HasField("image"):
        yield Violation("mask_image", "must come with an image; found none; add the image")


def _check_adapters(spec: worker_pb2.GenerationSpec) -> Iterator[Violation]:
    if len(spec.adapters) > MAX_ADAPTERS:
        yield Violation("adapters", f"must be at most {MAX_ADAPTERS}; found {len(spec.adapters)}")
        return
    seen: set[str] = set()
    for index, use in enumerate(spec.adapters):
        field = f"adapters[{index}]"
        if not identifiers.is_identifier(use.name):
            yield Violation(
                f"{field}.name",
                "must be 1 to 128 characters of letters, digits, '.', '_', ':' and '-'; "
                f"found {_short(use.name)}",
            )
        elif use.name in seen:
            yield Violation(f"{field}.name", f"must be used once; found {use.name!r} again")
        seen.add(use.name)
        yield from _check_range(f"{field}.scale", use.scale, -math.inf, math.inf)


def _check_output(output: worker_pb2.OutputOptions) -> Iterator[Violation]:
    if output.type not in worker_pb2.OutputType.values():
        yield _unknown_enum("output.type", output.type, worker_pb2.OutputType.keys())
    if output.encoding not in worker_pb2.Encoding.values():
        yield _unknown_enum("output.encoding", output.encoding, worker_pb2.Encoding.keys())
    plain = (worker_pb2.ENCODING_UNSPECIFIED, worker_pb2.ENCODING_RAW)
    pixels = (worker_pb2.OUTPUT_TYPE_UNSPECIFIED, worker_pb2.OUTPUT_TYPE_UINT8)
    if output.encoding not in plain and output.type not in pixels:
        yield Violation(
            "output.encoding", "must be raw unless the type is uint8; leave one of them out"
        )
    if output.quality:
        yield from _check_range("output.quality", output.quality, 1, 100)
    rate = output.frames_per_second
    if rate:
        yield from _check_range("output.frames_per_second", rate, 0, MAX_FRAMES_PER_SECOND)


def _unknown_enum(field: str, number: int, names: Iterable[str]) -> Violation:
    return Violation(field, f"must be one of {', '.join(names)}; found the number {number}")


def _check_accepted(
    spec: worker_pb2.GenerationSpec, parameters: Sequence[worker_pb2.Parameter]
) -> Iterator[Violation]:
    """Finds fields that are set although the pipeline has no parameter for them."""
    if not parameters:
        return
    names = {parameter.name for parameter in parameters}
    for field in SPEC_PARAMETERS:
        if not spec.HasField(field):
            continue
        # One output is what a pipeline without such a parameter makes.
        if field == "num_outputs" and spec.num_outputs == 1:
            continue
        if parameter_of(field, names) is None:
            yield Violation(
                field,
                "must be left out: this pipeline does not accept it; it accepts "
                f"{_listing(names)}",
            )


def _check_extra_args(
    spec: worker_pb2.GenerationSpec, parameters: Sequence[worker_pb2.Parameter]
) -> Iterator[Violation]:
    if len(spec.extra_args) > MAX_EXTRA_ARGS:
        found = len(spec.extra_args)
        yield Violation("extra_args", f"must be at most {MAX_EXTRA_ARGS}; found {found}")
        return
    by_name = {parameter.name: parameter for parameter in parameters}
    for name in sorted(spec.extra_args):
        value = spec.extra_args[name]
        field = f"extra_args.{name[:64]}"
        misplaced = _check_place(field, name, spec)
        if misplaced is not None:
            yield misplaced
        elif parameters and name not in by_name:
            yield _unknown_parameter(field, name, value, by_name)
        else:
            yield from kinds.check(field, value, by_name.get(name))


def _check_place(field: str, name: str, spec: worker_pb2.GenerationSpec) -> Violation | None:
    """Finds arguments that are a field of their own, or none of the user's business."""
    advice = WORKER_PARAMETERS.get(name)
    if advice is not None:
        return Violation(field, f"must be left out: the worker sets it; {advice}")
    for own, names in SPEC_PARAMETERS.items():
        if own in _PICTURES and _holds_several(spec.extra_args[name]) and not spec.HasField(own):
            continue
        if name in names or name == own:
            return Violation(field, f"must be left out: it has a field of its own; use {own}")
    return None


def _holds_several(value: worker_pb2.Value) -> bool:
    """Tells pictures that their own field cannot hold: several, or one as latents."""
    return value.WhichOneof("kind") in ("list", "tensor")


def _unknown_parameter(
    field: str, name: str, value: worker_pb2.Value, known: Collection[str]
) -> Violation:
    close = nearest(name, [other for other in known if other not in WORKER_PARAMETERS])
    advice = f"did you mean {' or '.join(close)}?" if close else f"it accepts {_listing(known)}"
    return Violation(
        field,
        f"must be a parameter that this pipeline accepts; found {name[:64]!r} with the value "
        f"{kinds.describe(value)}; {advice}",
    )


def _check_required(
    spec: worker_pb2.GenerationSpec, parameters: Sequence[worker_pb2.Parameter]
) -> Iterator[Violation]:
    names = {parameter.name for parameter in parameters}
    given = set(spec.extra_args) | set(WORKER_PARAMETERS)
    for field in SPEC_PARAMETERS:
        if spec.HasField(field):
            given.add(parameter_of(field, names) or field)
    for parameter in parameters:
        if parameter.is_required and parameter.name not in given:
            field = _field_of(parameter.name)
            wanted = " or ".join(parameter.kinds) or "any"
            yield Violation(field, f"must be given: this pipeline needs it; its type is {wanted}")


def _field_of(parameter: str) -> str:
    for field, names in SPEC_PARAMETERS.items():
        if parameter in names:
            return field
    return f"extra_args.{parameter}"


def _listing(names: Iterable[str]) -> str:
    shown = sorted(name for name in names if name not in WORKER_PARAMETERS)
    more = f" and {len(shown) - 40} more" if len(shown) > 40 else ""
    return ", ".join(shown[:40]) + more


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"a text of {len(text)} characters"

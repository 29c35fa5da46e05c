"""From what a pipeline returns to raw outputs: pictures, videos, sounds, latents, arrays.

Pipelines return objects of many classes; what a field is shows in its name, its type and its
number of axes.
"""

import dataclasses
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import numpy
import numpy.typing
import PIL.Image
import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import runs

Array = numpy.typing.NDArray[Any]  # Any: of whatever element type a pipeline returns

_VIDEO_FIELDS = ("frames", "video", "videos")
_IMAGE_FIELDS = ("image", "images")
_AUDIO_FIELDS = ("audio", "audios", "sound", "waveform", "waveforms")
_VIDEO_PARAMETERS = ("num_frames", "video_length", "num_videos_per_prompt")
_IMAGE_PARAMETER = "num_images_per_prompt"
_IMAGE_ENCODINGS = (
    worker_pb2.ENCODING_PNG,
    worker_pb2.ENCODING_JPEG,
    worker_pb2.ENCODING_WEBP,
)
_PICTURE_MODES = ("L", "LA", "RGB", "RGBA")


@dataclasses.dataclass(frozen=True, slots=True)
class _Item:
    """One output before its elements are laid out."""

    kind: worker_pb2.OutputKind
    value: Array | torch.Tensor


def call_arguments(
    wanted: worker_pb2.OutputType, accepted: Mapping[str, inspect.Parameter]
) -> dict[str, object]:
    """Returns the arguments that make a pipeline return what is wanted.

    Args:
        wanted: What the user asked for.
        accepted: The parameters of the pipeline's call.
    """
    if "output_type" not in accepted:
        return {}
    if wanted == worker_pb2.OUTPUT_TYPE_LATENT:
        return {"output_type": "latent"}
    default = accepted["output_type"].default
    # Other defaults than "pil" belong to pipelines of which some know nothing else. Their
    # arrays become pixels by the formula that diffusers has for it.
    if default == "pil" and wanted == worker_pb2.OUTPUT_TYPE_FLOAT:
        return {"output_type": "np"}
    return {}


def check_options(
    options: worker_pb2.OutputOptions, parameters: Collection[str]
) -> Iterator[errors.Violation]:
    """Finds encodings that a pipeline's outputs will not fit, where its parameters tell."""
    is_video = any(name in parameters for name in _VIDEO_PARAMETERS)
    if is_video and options.encoding in _IMAGE_ENCODINGS:
        yield errors.Violation("output.encoding", "must be raw or mp4: this pipeline makes videos")
    if (
        options.encoding == worker_pb2.ENCODING_MP4
        and not is_video
        and _IMAGE_PARAMETER in parameters
    ):
        yield errors.Violation(
            "output.encoding", "must be raw, png, jpeg or webp: this pipeline makes images"
        )


def collect(
    returned: object, *, wanted: worker_pb2.OutputType, seed: int
) -> tuple[runs.OutputData, ...]:
    """Returns the raw outputs of one call of a pipeline.

    Args:
        returned: What the call returned.
        wanted: Pixels as uint8 or float32, or latents; other arrays stay as they are.
        seed: Of the call.
    """
    fields = dict(_fields(returned))
    flags = _flags(fields)
    return tuple(
        _lay_out(item, wanted=wanted, seed=seed, is_flagged=flag, name=name)
        for name, value in fields.items()
        for item, flag in _flagged(_items(name, value, wanted), flags)
    )


def _fields(returned: object) -> Iterator[tuple[str, object]]:
    if isinstance(returned, dict):
        yield from returned.items()
    elif dataclasses.is_dataclass(returned):
        for field in dataclasses.fields(returned):
            yield field.name, getattr(returned, field.name)
    elif isinstance(returned, tuple):
        for number, value in enumerate(returned):
            yield f"output_{number}" if number else "images", value
    else:
        yield "images", returned


def _flags(fields: Mapping[str, object]) -> list[bool]:
    """Returns the verdicts of a safety checker, one for each picture, where there are any."""
    for name, value in fields.items():
        if "nsfw" in name and isinstance(value, (list, tuple)):
            return [bool(verdict) for verdict in value]
    return []


def _flagged(items: Iterator[_Item], flags: list[bool]) -> Iterator[tuple[_Item, bool | None]]:
    for number, item in enumerate(items):
        yield item, flags[number] if number < len(flags) else None


def _items(name: str, value: object, wanted: worker_pb2.OutputType) -> Iterator[_Item]:
    """Yields the outputs in a field, which holds a batch of one or more."""
    if isinstance(value, PIL.Image.Image):
        yield _picture(value)
    elif isinstance(value, torch.Tensor):
        yield from _tensor_items(name, value.detach(), wanted)
    elif isinstance(value, numpy.ndarray):
        yield from _array_items(name, value)
    elif isinstance(value, (list, tuple)) and value:
        yield from _list_items(name, cast("list[object]", value), wanted)


def _list_items(name: str, values: list[object], wanted: worker_pb2.OutputType) -> Iterator[_Item]:
    if all(isinstance(value, PIL.Image.Image) for value in values):
        pictures = cast("list[PIL.Image.Image]", values)
        if name in _VIDEO_FIELDS:
            yield _video(pictures)
        else:
            yield from map(_picture, pictures)
        return
    for value in values:
        if isinstance(value, (numpy.ndarray, torch.Tensor)):
            # An array in a list is one output; alone in its field it has an axis for the batch.
            yield from _items(name, value[None], wanted)
        elif isinstance(value, (list, tuple)):
            yield from _frames(name, cast("list[object]", value), wanted)
        elif isinstance(value, PIL.Image.Image):
            yield _picture(value)


def _frames(name: str, frames: list[object], wanted: worker_pb2.OutputType) -> Iterator[_Item]:
    if frames and all(isinstance(frame, PIL.Image.Image) for frame in frames):
        yield _video(cast("list[PIL.Image.Image]", frames))
    else:
        yield from _items(name, frames, wanted)


def _picture(picture: PIL.Image.Image) -> _Item:
    return _Item(worker_pb2.OUTPUT_KIND_IMAGE, _pixels(picture))


def _video(frames: list[PIL.Image.Image]) -> _Item:
    return _Item(worker_pb2.OUTPUT_KIND_VIDEO, numpy.stack([_pixels(frame) for frame in frames]))


def _pixels(picture: PIL.Image.Image) -> Array:
    if picture.mode.startswith("I;16") or picture.mode in _PICTURE_MODES:
        values = numpy.asarray(picture)
    else:
        values = numpy.asarray(picture.convert("L" if picture.mode == "1" else "RGB"))
    return values[:, :, None] if values.ndim == 2 else values


def _tensor_items(
    name: str, tensor: torch.Tensor, wanted: worker_pb2.OutputType
) -> Iterator[_Item]:
    if wanted == worker_pb2.OUTPUT_TYPE_LATENT and tensor.ndim > 1:
        for each in tensor:
            yield _Item(worker_pb2.OUTPUT_KIND_LATENTS, each)
        return
    channels_axis = {(_IMAGE_FIELDS, 4): 1, (_VIDEO_FIELDS, 5): 2}
    for (names, rank), axis in channels_axis.items():
        if name in names and tensor.ndim == rank:
            tensor = tensor.movedim(axis, -1)
    yield from _array_items(name, tensor)


def _array_items(name: str, batch: Array | torch.Tensor) -> Iterator[_Item]:
    rank = batch.ndim
    if name in _IMAGE_FIELDS and rank in (4, 5):
        kind = worker_pb2.OUTPUT_KIND_IMAGE if rank == 4 else worker_pb2.OUTPUT_KIND_VIDEO
        yield from (_Item(kind, each) for each in batch)
    elif name in _VIDEO_FIELDS and rank == 5:
        yield from (_Item(worker_pb2.OUTPUT_KIND_VIDEO, each) for each in batch)
    elif name in _VIDEO_FIELDS and rank == 4:
        yield _Item(worker_pb2.OUTPUT_KIND_VIDEO, batch)
    elif name in _IMAGE_FIELDS and rank == 3:
        yield _Item(worker_pb2.OUTPUT_KIND_IMAGE, batch)
    elif name in _AUDIO_FIELDS and rank in (2, 3):
        yield from (_Item(worker_pb2.OUTPUT_KIND_AUDIO, each) for each in batch)
    elif name in _AUDIO_FIELDS:
        yield _Item(worker_pb2.OUTPUT_KIND_AUDIO, batch)
    else:
        yield _Item(worker_pb2.OUTPUT_KIND_ARRAY, batch)


def _lay_out(
    item: _Item,
    *,
    wanted: worker_pb2.OutputType,
    seed: int,
    is_flagged: bool | None,
    name: str,
) -> runs.OutputData:
    dtype, array = _array(item.value)
    if item.kind in (worker_pb2.OUTPUT_KIND_IMAGE, worker_pb2.OUTPUT_KIND_VIDEO):
        array = _as_wanted(array, wanted)
        dtype = array.dtype.name
    return runs.OutputData(
        kind=item.kind,
        encoding=worker_pb2.ENCODING_RAW,
        dtype=dtype,
        shape=tuple(item.value.shape),
        data=_bytes(array),
        seed=seed,
        is_flagged=is_flagged,
        name=name,
    )


def _array(value: Array | torch.Tensor) -> tuple[str, Array]:
    """Returns torch's name of the element type, and the elements as numpy holds them."""
    if isinstance(value, numpy.ndarray):
        return value.dtype.name, value
    tensor = value.cpu().contiguous()
    dtype = str(tensor.dtype).removeprefix("torch.")
    # numpy has no bfloat16; its bits travel as they are.
    plain = tensor.view(torch.int16) if dtype == "bfloat16" else tensor
    return dtype, plain.numpy()


def _as_wanted(array: Array, wanted: worker_pb2.OutputType) -> Array:
    """Converts pixels as diffusers does, in `VaeImageProcessor.numpy_to_pil`."""
    is_float = numpy.issubdtype(array.dtype, numpy.floating)
    if wanted == worker_pb2.OUTPUT_TYPE_FLOAT:
        if is_float:
            return array.astype(numpy.float32, copy=False)
        return array.astype(numpy.float32) / numpy.iinfo(array.dtype).max
    if not is_float or wanted == worker_pb2.OUTPUT_TYPE_LATENT:
        return array
    with numpy.errstate(invalid="ignore"):
        return (array * 255).round().clip(0, 255).astype(numpy.uint8)


def _bytes(array: Array) -> memoryview:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    flat: Array = numpy.ascontiguousarray(little).reshape(-1)
    # An empty array has no element to view as bytes.
    return flat.view(numpy.uint8).data if flat.size else memoryview(b"")

"""Turns outputs into files: encoded bytes as they are, pixels through Pillow."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion.cli import files
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images, tensors

if TYPE_CHECKING:
    import numpy
    import PIL.Image

    from kubediffusion import _output

    Array = numpy.ndarray[Any, Any]  # Any: of whatever shape and type the output has.

_ENCODINGS = {
    worker_pb2.ENCODING_PNG: "png",
    worker_pb2.ENCODING_JPEG: "jpeg",
    worker_pb2.ENCODING_WEBP: "webp",
    worker_pb2.ENCODING_MP4: "mp4",
}
_FRAME_MILLISECONDS = 62
"""Of animations made from raw frames: 16 a second, the worker's default for video."""


def save_output(
    output: worker_pb2.Output, data: memoryview, path: pathlib.Path, format_name: str
) -> tuple[pathlib.Path, ...]:
    """Save one output of a result and answer the files written.

    Args:
        output: Says what the bytes are.
        data: The output's own bytes.
        path: Where to; the suffix is changed for what is no picture, and frames are
            numbered.
        format_name: A member of `files.FORMATS`.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: The output cannot be written in this
            format.
    """
    encoding = _ENCODINGS.get(output.encoding)
    if encoding == format_name:
        return _write(path, data)
    if encoding == "mp4":
        return _write(path.with_suffix(".mp4"), data)
    if encoding is not None:
        picture = images.ImageData(bytes(data)).to_pil()
        return save_pictures([picture], path, format_name)
    array = _array(output, data)
    if output.kind == worker_pb2.OUTPUT_KIND_IMAGE:
        return save_pictures([_picture(array)], path, format_name)
    if output.kind == worker_pb2.OUTPUT_KIND_VIDEO:
        return save_pictures([_picture(frame) for frame in array], path, format_name)
    return _save_array(array, path)


def save_request_output(
    output: "_output.OmniRequestOutput", paths: Sequence[pathlib.Path], format_name: str
) -> list[tuple[pathlib.Path, ...]]:
    """Save what an engine returned, and answer the files written for each output.

    Args:
        output: Of a request that succeeded.
        paths: One for each output.
        format_name: A member of `files.FORMATS`.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: It cannot be written in this format.
    """
    if output.files:
        return [
            _write(path, memoryview(data)) for path, data in zip(paths, output.files, strict=True)
        ]
    pictures = [[image] for image in output.images] or output.frames
    return [
        save_pictures(group, path, format_name)
        for path, group in zip(paths, pictures, strict=True)
    ]


def save_pictures(
    pictures: "Sequence[PIL.Image.Image]", path: pathlib.Path, format_name: str
) -> tuple[pathlib.Path, ...]:
    """Save a picture, or the frames of a video, and answer the files written.

    Args:
        pictures: One, or the frames in order.
        path: Where to; frames are numbered unless the format is an animation.
        format_name: A member of `files.FORMATS`.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: Only a worker can encode mp4.
    """
    if format_name == "mp4":
        raise errors.InvalidRequestError(
            "these are raw pixels, and only workers encode mp4: save them as webp or png, or"
            " generate with --format mp4"
        )
    if len(pictures) == 1:
        _save(pictures[0], path, format_name)
        return (path,)
    if format_name == "webp":
        first, *others = pictures
        first.save(path, "WEBP", save_all=True, append_images=others, duration=_FRAME_MILLISECONDS)
        return (path,)
    paths = files.numbered(path.with_suffix(""), len(pictures), path.suffix)
    for picture, frame_path in zip(pictures, paths, strict=True):
        _save(picture, frame_path, format_name)
    return paths


def _save(picture: "PIL.Image.Image", path: pathlib.Path, format_name: str) -> None:
    if format_name == "jpeg" and picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    picture.save(path, format_name.upper())


def _write(path: pathlib.Path, data: memoryview) -> tuple[pathlib.Path, ...]:
    path.write_bytes(data)
    return (path,)


def _array(output: worker_pb2.Output, data: memoryview) -> "Array":
    dtype = tensors.dtype_from_wire(output.dtype)
    return tensors.TensorData(dtype, tuple(output.shape), bytes(data)).to_numpy()


def _picture(array: "Array") -> "PIL.Image.Image":
    import numpy
    import PIL.Image

    if array.dtype != numpy.uint8:
        array = (array.clip(0, 1) * 255).round().astype(numpy.uint8)
    if array.shape[-1] == 1:
        array = array[..., 0]
    return PIL.Image.fromarray(array)


def _save_array(array: "Array", path: pathlib.Path) -> tuple[pathlib.Path, ...]:
    import numpy

    path = path.with_suffix(".npy")
    numpy.save(path, array, allow_pickle=False)
    return (path,)

"""Pictures and videos as files. Nothing here needs torch or the compute thread."""

import dataclasses
import io
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import numpy
import numpy.typing
import PIL.Image

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import runs

Pixels = numpy.typing.NDArray[numpy.uint8]

SUPPORTED = (
    worker_pb2.ENCODING_RAW,
    worker_pb2.ENCODING_PNG,
    worker_pb2.ENCODING_JPEG,
    worker_pb2.ENCODING_WEBP,
    worker_pb2.ENCODING_MP4,
)
"""What a worker can produce."""

DEFAULT_FRAMES_PER_SECOND = 16.0

_FIELD = "output.encoding"
_MAX_SIDES: Mapping[int, int] = {worker_pb2.ENCODING_WEBP: 16383, worker_pb2.ENCODING_JPEG: 65500}
_DEFAULT_QUALITIES: Mapping[int, int] = {
    worker_pb2.ENCODING_JPEG: 95,
    worker_pb2.ENCODING_WEBP: 90,
    worker_pb2.ENCODING_MP4: 65,
}
_FFMPEG_TIMEOUT = 600.0


def encode(
    outputs: Sequence[runs.OutputData], options: worker_pb2.OutputOptions
) -> tuple[runs.OutputData, ...]:
    """Returns the outputs in the encoding that was asked for.

    Sounds and arrays stay raw whatever the encoding, as do latents. The same pixels give the
    same bytes on the same worker.

    Args:
        outputs: Raw ones.
        options: Encoding, quality and frame rate.

    Raises:
        errors.InvalidRequestError: The encoding does not fit a picture or a video.
        errors.InternalError: The encoder has failed.
    """
    return tuple(_encode(output, options) for output in outputs)


def _encode(output: runs.OutputData, options: worker_pb2.OutputOptions) -> runs.OutputData:
    is_image = output.kind == worker_pb2.OUTPUT_KIND_IMAGE
    is_video = output.kind == worker_pb2.OUTPUT_KIND_VIDEO
    if not is_image and not is_video:
        return output
    encoding = options.encoding
    match encoding:
        case worker_pb2.ENCODING_UNSPECIFIED | worker_pb2.ENCODING_RAW:
            return output
        case worker_pb2.ENCODING_PNG | worker_pb2.ENCODING_JPEG | worker_pb2.ENCODING_WEBP:
            _require(is_image, "must be raw or mp4 for a video")
            data = _picture(_pixels(output), encoding, _quality(options))
        case worker_pb2.ENCODING_MP4:
            _require(is_video, "must be raw, png, jpeg or webp for an image")
            rate = options.frames_per_second or DEFAULT_FRAMES_PER_SECOND
            data = _mp4(_pixels(output), rate, _quality(options))
        case _:
            assert_never(encoding)  # type: ignore[arg-type]  # protobuf enums are no literals
    return dataclasses.replace(output, encoding=encoding, dtype="", data=data)


def _require(is_met: bool, description: str) -> None:
    if not is_met:
        raise errors.InvalidRequestError.at(_FIELD, description)


def _quality(options: worker_pb2.OutputOptions) -> int:
    return options.quality or _DEFAULT_QUALITIES.get(options.encoding, 0)


def _pixels(output: runs.OutputData) -> Pixels:
    _require(output.dtype == "uint8", f"must be raw for pixels of type {output.dtype}")
    return numpy.frombuffer(output.data, numpy.uint8).reshape(output.shape)


def _picture(pixels: Pixels, encoding: worker_pb2.Encoding, quality: int) -> bytes:
    limit = _MAX_SIDES.get(encoding)
    _require(limit is None or max(pixels.shape[:2]) <= limit, f"allows {limit} pixels a side")
    picture = PIL.Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    if encoding == worker_pb2.ENCODING_PNG:
        # Level 1: three times as fast as the default, for files that are 15 % larger.
        picture.save(file, "PNG", compress_level=1)
    elif encoding == worker_pb2.ENCODING_WEBP:
        picture.save(file, "WEBP", quality=quality)
    else:
        flat = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        flat.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _mp4(frames: Pixels, rate: float, quality: int) -> bytes:
    """Encodes with the ffmpeg of imageio-ffmpeg, to a file: the format's index comes last."""
    import imageio_ffmpeg

    rgb = _as_rgb(frames)
    height, width = rgb.shape[1:3]
    with tempfile.TemporaryDirectory(prefix="kubediffusion-") as folder:
        target = pathlib.Path(folder) / "video.mp4"
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            *("-nostdin", "-loglevel", "error"),
            *("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"),
            *("-framerate", f"{rate:g}", "-i", "pipe:0"),
            # Colours are halved in each direction, so both sides must be even.
            *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"),
            *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(_rate_factor(quality))),
            # One thread and no dates or version: the same frames give the same bytes.
            *("-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"),
            *("-map_metadata", "-1", "-movflags", "+faststart", str(target)),
        ]
        _run(command, rgb.tobytes())
        return target.read_bytes()


def _run(command: list[str], frames: bytes) -> None:
    try:
        done = subprocess.run(
            command, input=frames, capture_output=True, timeout=_FFMPEG_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.InternalError(f"ffmpeg could not run: {type(error).__name__}") from error
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()[-300:]
        raise errors.InternalError(f"ffmpeg ended with {done.returncode}: {text}")


def _rate_factor(quality: int) -> int:
    """Maps quality to x264's scale from 1, nearly lossless, to 51."""
    return max(1, round(51 * (100 - quality) / 100))


def _as_rgb(frames: Pixels) -> Any:  # numpy's types do not follow shapes
    channels = frames.shape[3]
    if channels in (1, 2):
        return numpy.repeat(frames[..., :1], 3, axis=3)
    return frames[..., :3]

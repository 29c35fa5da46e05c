import io
import pathlib
import subprocess
from typing import Any

import imageio_ffmpeg
import numpy
import PIL.Image
import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import encodings, runs


def output(
    *shape: int,
    kind: worker_pb2.OutputKind = worker_pb2.OUTPUT_KIND_IMAGE,
    dtype: str = "uint8",
) -> runs.OutputData:
    """Returns a smooth picture or video, as encoders expect one."""
    axes = numpy.indices(shape).sum(axis=0) * 3
    return runs.OutputData(
        kind=kind,
        encoding=worker_pb2.ENCODING_RAW,
        dtype=dtype,
        shape=shape,
        data=(axes % 256).astype(dtype).tobytes(),
        seed=3,
        is_flagged=False,
        name="images",
    )


def video(*shape: int) -> runs.OutputData:
    return output(*shape, kind=worker_pb2.OUTPUT_KIND_VIDEO)


def encoded(
    raw: runs.OutputData, encoding: worker_pb2.Encoding, **options: Any
) -> runs.OutputData:
    (found,) = encodings.encode([raw], worker_pb2.OutputOptions(encoding=encoding, **options))
    return found


def pixels(raw: runs.OutputData) -> numpy.ndarray[Any, numpy.dtype[numpy.uint8]]:
    return numpy.frombuffer(raw.data, "uint8").reshape(raw.shape)


def opened(file: runs.OutputData) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(file.data))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_loses_nothing(channels: int) -> None:
    raw = output(20, 30, channels)
    found = numpy.asarray(opened(encoded(raw, worker_pb2.ENCODING_PNG)))
    assert numpy.array_equal(found.reshape(raw.shape), pixels(raw))


@pytest.mark.parametrize(
    ("encoding", "format_name"),
    [(worker_pb2.ENCODING_JPEG, "JPEG"), (worker_pb2.ENCODING_WEBP, "WEBP")],
)
def test_lossy_picture_looks_like_the_original(
    encoding: worker_pb2.Encoding, format_name: str
) -> None:
    raw = output(40, 40, 3)
    found = opened(encoded(raw, encoding, quality=95))
    assert (found.format, found.size) == (format_name, (40, 40))
    difference = numpy.asarray(found.convert("RGB")).astype(int) - pixels(raw)
    assert numpy.abs(difference).mean() < 12


def test_jpeg_has_no_transparency() -> None:
    assert opened(encoded(output(8, 8, 4), worker_pb2.ENCODING_JPEG)).mode == "RGB"


def test_lower_quality_makes_a_smaller_file() -> None:
    raw = output(64, 64, 3)
    low = encoded(raw, worker_pb2.ENCODING_JPEG, quality=10)
    high = encoded(raw, worker_pb2.ENCODING_JPEG, quality=95)
    assert len(low.data) < len(high.data)


def decoded(file: runs.OutputData, folder: pathlib.Path) -> tuple[str, bytes]:
    """Returns what ffmpeg says of a video's stream, and its frames as RGB."""
    path = folder / "video.mp4"
    path.write_bytes(file.data)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-i", str(path)]
    done = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"],
        capture_output=True,
        check=True,
    )
    (line,) = [each for each in done.stderr.decode().splitlines() if "Video: h264" in each]
    return line, done.stdout


def test_mp4_holds_all_frames_at_the_asked_rate(tmp_path: pathlib.Path) -> None:
    raw = video(9, 32, 48, 3)
    file = encoded(raw, worker_pb2.ENCODING_MP4, frames_per_second=8.0)
    facts, frames = decoded(file, tmp_path)
    assert all(each in facts for each in ("48x32", "8 fps", "yuv420p"))
    assert len(frames) == len(raw.data)


def test_mp4_looks_like_the_original(tmp_path: pathlib.Path) -> None:
    raw = video(5, 32, 48, 3)
    _, frames = decoded(encoded(raw, worker_pb2.ENCODING_MP4, quality=95), tmp_path)
    found = numpy.frombuffer(frames, "uint8").reshape(raw.shape)
    assert numpy.abs(found.astype(int) - pixels(raw)).mean() < 12


def test_mp4_of_odd_size_is_padded(tmp_path: pathlib.Path) -> None:
    facts, _ = decoded(encoded(video(3, 17, 15, 3), worker_pb2.ENCODING_MP4), tmp_path)
    assert "16x18" in facts


@pytest.mark.parametrize("channels", [1, 4])
def test_mp4_takes_other_channels_than_three(channels: int) -> None:
    assert encoded(video(2, 16, 16, channels), worker_pb2.ENCODING_MP4).data


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (output(16, 16, 3), worker_pb2.ENCODING_PNG),
        (output(16, 16, 3), worker_pb2.ENCODING_JPEG),
        (output(16, 16, 3), worker_pb2.ENCODING_WEBP),
        (video(3, 16, 16, 3), worker_pb2.ENCODING_MP4),
    ],
)
def test_same_pixels_give_the_same_bytes(
    raw: runs.OutputData, encoding: worker_pb2.Encoding
) -> None:
    assert encoded(raw, encoding).data == encoded(raw, encoding).data


def test_file_keeps_what_is_known_of_the_output() -> None:
    file = encoded(output(8, 8, 3), worker_pb2.ENCODING_PNG)
    assert (file.seed, file.is_flagged, file.name, file.kind) == (
        3,
        False,
        "images",
        worker_pb2.OUTPUT_KIND_IMAGE,
    )
    assert (file.encoding, file.dtype) == (worker_pb2.ENCODING_PNG, "")


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (video(2, 8, 8, 3), worker_pb2.ENCODING_PNG),
        (video(2, 8, 8, 3), worker_pb2.ENCODING_JPEG),
        (output(8, 8, 3), worker_pb2.ENCODING_MP4),
        (output(8, 8, 3, dtype="float32"), worker_pb2.ENCODING_PNG),
        (output(1, 20_000, 3), worker_pb2.ENCODING_WEBP),
    ],
)
def test_encoding_that_does_not_fit_is_refused_by_its_field(
    raw: runs.OutputData, encoding: worker_pb2.Encoding
) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        encoded(raw, encoding)
    assert caught.value.violations[0].field == "output.encoding"


def test_sound_stays_raw_beside_a_video() -> None:
    sound = output(2, 100, kind=worker_pb2.OUTPUT_KIND_AUDIO, dtype="float32")
    options = worker_pb2.OutputOptions(encoding=worker_pb2.ENCODING_MP4)
    found = encodings.encode([video(2, 8, 8, 3), sound], options)
    assert [each.encoding for each in found] == [
        worker_pb2.ENCODING_MP4,
        worker_pb2.ENCODING_RAW,
    ]


@pytest.mark.parametrize("encoding", [worker_pb2.ENCODING_UNSPECIFIED, worker_pb2.ENCODING_RAW])
def test_raw_is_left_alone(encoding: worker_pb2.Encoding) -> None:
    raw = output(8, 8, 3)
    assert encoded(raw, encoding) is raw


def test_failing_encoder_is_our_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *_args, **_kwargs: subprocess.CompletedProcess([], 1, b"", b"no such codec"),
    )
    with pytest.raises(errors.InternalError, match="ended with 1: no such codec"):
        encoded(video(2, 8, 8, 3), worker_pb2.ENCODING_MP4)

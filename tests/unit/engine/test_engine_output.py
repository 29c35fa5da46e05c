"""What a user can make of a result."""

import builtins
import io
from typing import Any

import numpy
import PIL.Image
import pytest
import torch

from kubediffusion import errors
from kubediffusion._output import OmniRequestOutput
from kubediffusion_proto.v1 import worker_pb2

PIXELS = numpy.arange(2 * 3 * 3, dtype="u1").reshape(2, 3, 3)
FLOATS = (PIXELS / 255).astype("f4")


def part(
    array: numpy.ndarray[Any, Any],
    kind: worker_pb2.OutputKind = worker_pb2.OUTPUT_KIND_IMAGE,
    **fields: Any,
) -> tuple[worker_pb2.Output, bytes]:
    names = {"uint8": worker_pb2.DATA_TYPE_UINT8, "float32": worker_pb2.DATA_TYPE_FLOAT32}
    data = array.tobytes()
    output = worker_pb2.Output(
        **{
            "kind": kind,
            "encoding": worker_pb2.ENCODING_RAW,
            "dtype": names.get(array.dtype.name, 0),
            "shape": array.shape,
            "size": len(data),
            **fields,
        }
    )
    return output, data


def output(
    *parts: tuple[worker_pb2.Output, bytes], output_type: str = "pil", **fields: Any
) -> OmniRequestOutput:
    header, data = worker_pb2.Result(**fields), b""
    for message, content in parts:
        message.offset = len(data)
        data += content
        header.outputs.append(message)
    return OmniRequestOutput("r", header=header, data=bytearray(data), output_type=output_type)


def test_pixels_become_pillow_images() -> None:
    (image,) = output(part(PIXELS)).images
    assert isinstance(image, PIL.Image.Image)
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert numpy.array_equal(numpy.asarray(image), PIXELS)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (4, "RGBA")])
def test_channels_decide_the_mode(channels: int, mode: str) -> None:
    pixels = numpy.zeros((2, 3, channels), "u1")
    assert output(part(pixels)).images[0].mode == mode


def test_images_are_made_once() -> None:
    found = output(part(PIXELS))
    assert found.images is found.images


def test_floats_come_as_arrays_or_tensors() -> None:
    (array,) = output(part(FLOATS), output_type="np").images
    assert numpy.array_equal(array, FLOATS)
    (tensor,) = output(part(FLOATS), output_type="pt").images
    assert torch.equal(tensor, torch.from_numpy(FLOATS).permute(2, 0, 1))


def test_any_type_can_be_converted_to_any_other() -> None:
    assert numpy.array_equal(numpy.asarray(output(part(FLOATS)).convert("pil")[0]), PIXELS)
    assert numpy.allclose(output(part(PIXELS)).convert("np")[0], FLOATS)
    assert output(part(PIXELS)).convert("pt")[0].shape == (3, 2, 3)
    with pytest.raises(ValueError, match="'pil', 'np' or 'pt'"):
        output(part(PIXELS)).convert("jax")


def test_tensors_without_torch_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def import_without_torch(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", import_without_torch)
    with pytest.raises(ModuleNotFoundError, match="needs torch"):
        _ = output(part(FLOATS), output_type="pt").images


def test_video_has_frames() -> None:
    video = numpy.zeros((4, 2, 3, 3), "u1")
    kind = worker_pb2.OUTPUT_KIND_VIDEO
    (frames,) = output(part(video, kind)).frames
    assert [frame.size for frame in frames] == [(3, 2)] * 4
    assert output(part(video, kind), output_type="np").frames[0].shape == (4, 2, 3, 3)
    assert output(part(video, kind), output_type="pt").frames[0].shape == (4, 3, 2, 3)
    assert output(part(video, kind)).images == []


def test_files_are_given_and_opened() -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(file, "PNG")
    message = worker_pb2.Output(
        kind=worker_pb2.OUTPUT_KIND_IMAGE,
        encoding=worker_pb2.ENCODING_PNG,
        size=len(file.getvalue()),
    )
    found = output((message, file.getvalue()))
    assert found.files == [file.getvalue()]
    assert found.encodings == ["png"]
    assert numpy.array_equal(numpy.asarray(found.images[0]), PIXELS)


def test_latents_sound_and_further_arrays_have_their_places() -> None:
    array = numpy.ones((4, 2, 2), "f4")
    found = output(
        part(array, worker_pb2.OUTPUT_KIND_LATENTS),
        part(array, worker_pb2.OUTPUT_KIND_AUDIO),
        part(array, worker_pb2.OUTPUT_KIND_ARRAY, name="depth"),
        output_type="latent",
    )
    assert numpy.array_equal(found.latents, array)
    assert numpy.array_equal(found.audio, array)
    assert numpy.array_equal(found.arrays["depth"], array)
    assert output(part(PIXELS)).latents is None
    several = output(*[part(array, worker_pb2.OUTPUT_KIND_LATENTS) for _ in range(2)])
    assert len(several.latents) == 2


def test_facts_are_read_from_the_header() -> None:
    found = output(
        part(PIXELS, seed=5, is_flagged=True),
        part(PIXELS, seed=6),
        exactness=worker_pb2.EXACTNESS_CLOSE,
        resumed_from=3,
        fingerprint="f",
        metrics=worker_pb2.GenerationMetrics(steps=4, compute_seconds=1.5),
    )
    assert (found.seed, found.seeds, found.flagged) == (5, [5, 6], [True, None])
    assert (found.exactness, found.resumed_from, found.fingerprint) == ("close", 3, "f")
    assert (found.metrics["steps"], found.metrics["compute_seconds"]) == (4, 1.5)
    assert found.finished


def test_failed_output_raises_its_error_where_pictures_are_asked_for() -> None:
    found = OmniRequestOutput("r", error=errors.PipelineError("it raised"))
    for name in ("images", "frames", "latents", "audio", "arrays", "files"):
        with pytest.raises(errors.PipelineError):
            getattr(found, name)
    assert found.seed is None
    assert "it raised" in repr(found)


def test_unfinished_output_says_so() -> None:
    with pytest.raises(errors.ResultNotReadyError):
        OmniRequestOutput("r", finished=False).raise_for_error()

import dataclasses
from typing import Any

import diffusers
import numpy
import PIL.Image
import pytest
import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import outputs, runs

UINT8 = worker_pb2.OUTPUT_TYPE_UINT8
FLOAT = worker_pb2.OUTPUT_TYPE_FLOAT
LATENT = worker_pb2.OUTPUT_TYPE_LATENT
IMAGE = worker_pb2.OUTPUT_KIND_IMAGE
VIDEO = worker_pb2.OUTPUT_KIND_VIDEO


def collect(
    wanted: worker_pb2.OutputType = UINT8, **fields: object
) -> tuple[runs.OutputData, ...]:
    return outputs.collect(fields, wanted=wanted, seed=7)


def pictures(number: int, mode: str = "RGB") -> list[PIL.Image.Image]:
    return [PIL.Image.new(mode, (4, 2), index + 1) for index in range(number)]


def array(output: runs.OutputData) -> numpy.ndarray[Any, numpy.dtype[Any]]:
    return numpy.frombuffer(output.data, output.dtype).reshape(output.shape)


def floats(*shape: int) -> numpy.ndarray[Any, numpy.dtype[numpy.float32]]:
    return numpy.random.default_rng(0).random(shape, dtype=numpy.float32)


def test_pictures_become_pixels() -> None:
    found = collect(images=pictures(2))
    assert [(each.kind, each.shape, each.dtype) for each in found] == [
        (IMAGE, (2, 4, 3), "uint8")
    ] * 2
    assert array(found[1])[0, 0, 0] == 2


@pytest.mark.parametrize(
    ("mode", "channels", "dtype"),
    [("L", 1, "uint8"), ("RGBA", 4, "uint8"), ("1", 1, "uint8"), ("I;16", 1, "uint16")],
)
def test_mode_of_a_picture_sets_channels(mode: str, channels: int, dtype: str) -> None:
    (found,) = collect(images=pictures(1, mode))
    assert (found.shape, found.dtype) == ((2, 4, channels), dtype)


def test_list_of_lists_of_pictures_is_videos() -> None:
    found = collect(frames=[pictures(3), pictures(3)])
    assert [(each.kind, each.shape) for each in found] == [(VIDEO, (3, 2, 4, 3))] * 2


def test_flat_list_of_frames_is_one_video() -> None:
    (found,) = collect(frames=pictures(3))
    assert (found.kind, found.shape) == (VIDEO, (3, 2, 4, 3))


def test_float_arrays_become_pixels_as_diffusers_converts_them() -> None:
    values = floats(1, 8, 8, 3)
    (found,) = collect(images=values)
    wanted = diffusers.image_processor.VaeImageProcessor.numpy_to_pil(values)[0]  # pyright: ignore[reportAttributeAccessIssue]  # loaded lazily
    assert array(found).tobytes() == wanted.tobytes()


def test_float_video_splits_into_its_batch() -> None:
    found = collect(frames=floats(2, 3, 8, 8, 3))
    assert [(each.kind, each.shape, each.dtype) for each in found] == [
        (VIDEO, (3, 8, 8, 3), "uint8")
    ] * 2


def test_list_of_float_videos_is_videos() -> None:
    (found,) = collect(frames=[floats(3, 8, 8, 3)])
    assert (found.kind, found.shape) == (VIDEO, (3, 8, 8, 3))


def test_floats_stay_floats_where_they_are_wanted() -> None:
    values = floats(1, 8, 8, 3)
    (found,) = collect(FLOAT, images=values)
    assert found.dtype == "float32"
    assert array(found).tobytes() == values.tobytes()


def test_torch_pictures_get_their_channels_last() -> None:
    (found,) = collect(FLOAT, images=torch.zeros(1, 3, 8, 6))
    assert (found.kind, found.shape) == (IMAGE, (8, 6, 3))


def test_latents_keep_type_and_axes() -> None:
    latents = torch.randn(1, 16, 3, dtype=torch.bfloat16)
    (found,) = collect(LATENT, images=latents)
    assert (found.kind, found.dtype, found.shape) == (
        worker_pb2.OUTPUT_KIND_LATENTS,
        "bfloat16",
        (16, 3),
    )
    bits = torch.frombuffer(bytearray(found.data), dtype=torch.bfloat16)
    assert torch.equal(bits.reshape(16, 3), latents[0])


def test_sound_stays_as_it_is() -> None:
    sound = torch.randn(1, 2, 100)
    (found,) = collect(audios=sound)
    assert (found.kind, found.dtype, found.shape) == (
        worker_pb2.OUTPUT_KIND_AUDIO,
        "float32",
        (2, 100),
    )


def test_other_arrays_keep_their_name() -> None:
    (found,) = collect(prediction=floats(1, 8, 8, 1))
    assert (found.kind, found.name) == (worker_pb2.OUTPUT_KIND_ARRAY, "prediction")


def test_verdicts_of_the_safety_checker_are_passed_on() -> None:
    found = collect(images=pictures(2), nsfw_content_detected=[False, True])
    assert [each.is_flagged for each in found] == [False, True]


def test_no_verdict_is_not_a_good_one() -> None:
    (found,) = collect(images=pictures(1), nsfw_content_detected=None)
    assert found.is_flagged is None


def test_seed_and_name_are_kept() -> None:
    (found,) = collect(images=pictures(1))
    assert (found.seed, found.name) == (7, "images")


def test_layout_is_contiguous_whatever_the_strides() -> None:
    values = floats(1, 3, 8, 6).transpose(0, 2, 3, 1)
    (found,) = collect(FLOAT, images=values)
    assert array(found).tobytes() == numpy.ascontiguousarray(values).tobytes()


@dataclasses.dataclass
class Returned:
    images: list[PIL.Image.Image]


@pytest.mark.parametrize(
    "returned", [Returned(pictures(1)), (pictures(1),), pictures(1), pictures(1)[0]]
)
def test_pictures_are_found_in_any_kind_of_object(returned: object) -> None:
    (found,) = outputs.collect(returned, wanted=UINT8, seed=0)
    assert (found.kind, found.name) == (IMAGE, "images")


def test_nothing_returned_is_no_output() -> None:
    assert outputs.collect(None, wanted=UINT8, seed=0) == ()


def test_empty_array_has_no_bytes() -> None:
    (found,) = collect(embeddings=numpy.zeros((0, 4), "float32"))
    assert (found.shape, len(found.data)) == ((0, 4), 0)


@pytest.mark.parametrize(
    ("encoding", "parameters", "is_refused"),
    [
        (worker_pb2.ENCODING_PNG, {"num_frames"}, True),
        (worker_pb2.ENCODING_PNG, {"num_images_per_prompt"}, False),
        (worker_pb2.ENCODING_MP4, {"num_images_per_prompt"}, True),
        (worker_pb2.ENCODING_MP4, {"num_frames", "num_videos_per_prompt"}, False),
        (worker_pb2.ENCODING_MP4, {"video"}, False),
        (worker_pb2.ENCODING_RAW, {"num_frames"}, False),
    ],
)
def test_encoding_is_checked_before_hours_of_computing(
    encoding: worker_pb2.Encoding, parameters: set[str], is_refused: bool
) -> None:
    options = worker_pb2.OutputOptions(encoding=encoding)
    found = [each.field for each in outputs.check_options(options, parameters)]
    assert found == (["output.encoding"] if is_refused else [])

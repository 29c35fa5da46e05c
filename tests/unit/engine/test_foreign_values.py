import types
from typing import Any

import numpy
import pytest
from PIL import Image

from kubediffusion import _request
from kubediffusion._links import foreign_values
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images, values

UINT8 = worker_pb2.OUTPUT_TYPE_UINT8
FLOAT = worker_pb2.OUTPUT_TYPE_FLOAT
LATENT = worker_pb2.OUTPUT_TYPE_LATENT


def submission(
    wanted: worker_pb2.OutputType = UINT8, **fields: Any
) -> worker_pb2.SubmitGenerationRequest:
    spec = worker_pb2.GenerationSpec(output=worker_pb2.OutputOptions(type=wanted), **fields)
    caller = worker_pb2.Caller(engine_id="e")
    return worker_pb2.SubmitGenerationRequest(caller=caller, request_id="r", spec=spec)


def outputs(answer: object, wanted: worker_pb2.OutputType = UINT8) -> list[tuple[str, list[int]]]:
    """Returns type and shape of each output."""
    header, data = foreign_values.result_of(answer, submission(wanted))
    assert header.size == len(data) == sum(output.size for output in header.outputs)
    return [
        (worker_pb2.DataType.Name(o.dtype).removeprefix("DATA_TYPE_").lower(), list(o.shape))
        for o in header.outputs
    ]


PICTURE = Image.new("RGB", (4, 2), (255, 0, 0))
ARRAY = numpy.zeros((2, 4, 3), numpy.uint8)


@pytest.mark.parametrize(
    "answer",
    [
        PICTURE,
        [PICTURE],
        [[PICTURE]],
        ARRAY,
        ARRAY[None],
        {"images": [PICTURE]},
        types.SimpleNamespace(images=[PICTURE], error=None),
        types.SimpleNamespace(images=[], output=PICTURE, error=None),
        [types.SimpleNamespace(images=ARRAY[None])],
        numpy.zeros((2, 4, 3), numpy.float32),
    ],
)
def test_one_picture_in_many_shapes(answer: object) -> None:
    assert outputs(answer) == [("uint8", [2, 4, 3])]


def test_several_pictures_have_seeds_one_after_the_other() -> None:
    header, _ = foreign_values.result_of([PICTURE, PICTURE], submission(seed=7))
    assert [(o.seed, o.offset) for o in header.outputs] == [(7, 0), (8, 24)]


def test_floats_are_given_where_they_are_asked_for() -> None:
    assert outputs(PICTURE, FLOAT) == [("float32", [2, 4, 3])]
    assert outputs(numpy.zeros((1, 2, 4, 3), numpy.float32), FLOAT) == [("float32", [2, 4, 3])]


def test_a_float_picture_becomes_bytes_with_rounding() -> None:
    _, data = foreign_values.result_of(numpy.full((1, 1, 1), 0.5), submission())
    assert data == bytes([128])


def test_a_video_is_one_output() -> None:
    video = numpy.zeros((1, 5, 2, 4, 3), numpy.uint8)
    assert outputs(types.SimpleNamespace(frames=video)) == [("uint8", [5, 2, 4, 3])]


def test_latents_come_as_they_are() -> None:
    latents = numpy.zeros((1, 4, 8, 8), numpy.float32)
    assert outputs(latents, LATENT) == [("float32", [1, 4, 8, 8])]
    assert outputs(types.SimpleNamespace(images=[], latents=latents)) == [
        ("float32", [1, 4, 8, 8])
    ]


@pytest.mark.parametrize(
    "answer", [None, [], "text", b"bytes", 7, object(), numpy.zeros(3), {"images": None}]
)
def test_what_is_no_picture_is_an_error(answer: object) -> None:
    with pytest.raises(errors.PipelineError, match="returned"):
        foreign_values.result_of(answer, submission())


def test_an_error_in_the_answer_is_raised() -> None:
    with pytest.raises(errors.PipelineError, match="no paint"):
        foreign_values.result_of(types.SimpleNamespace(error="no paint"), submission())
    answer = types.SimpleNamespace(error=errors.DeviceMemoryError("full"))
    with pytest.raises(errors.DeviceMemoryError):
        foreign_values.result_of([answer], submission())


def test_a_request_survives_the_way_to_the_wire_and_back() -> None:
    given = _request.OmniDiffusionRequest(
        prompt="red",
        negative_prompt="blue",
        height=8,
        width=16,
        num_inference_steps=3,
        guidance_scale=0.0,
        seed=5,
        num_outputs_per_prompt=2,
        strength=0.5,
        image=images.from_pil(PICTURE),
        output_type="np",
        lora_request=[("style", 0.5)],
        extra_args={"eta": 0.5, "sigmas": [1.0, 0.5]},
    )
    message = worker_pb2.SubmitGenerationRequest(request_id="r", spec=given.to_spec())
    found = foreign_values.request_of(message)
    for field in (
        *("prompt", "negative_prompt", "height", "width", "num_inference_steps"),
        *("guidance_scale", "seed", "num_outputs_per_prompt", "strength", "output_type"),
        *("lora_request", "extra_args"),
    ):
        assert getattr(found, field) == getattr(given, field), field
    assert isinstance(found.image, Image.Image)
    assert found.image.tobytes() == PICTURE.tobytes()
    assert found.num_frames is None


def test_a_seed_that_is_not_given_depends_on_the_ids() -> None:
    first, second = submission(), submission()
    assert foreign_values.request_of(first).seed == foreign_values.request_of(second).seed
    second.request_id = "other"
    assert foreign_values.request_of(first).seed != foreign_values.request_of(second).seed


def test_hostile_extra_args_are_refused() -> None:
    message = submission()
    message.spec.extra_args["x"].CopyFrom(values.encode([[[]]]))
    value = message.spec.extra_args["x"]
    for _ in range(40):
        value.list.items.add().CopyFrom(values.encode([[[]]]))
        value = value.list.items[-1]
    with pytest.raises(errors.KubediffusionError):
        foreign_values.request_of(message)

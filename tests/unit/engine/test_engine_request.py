"""From a request to the wire: every type is checked, nothing is filled in."""

import datetime
import io
import pathlib
import types

import numpy
import PIL.Image
import pytest

from kubediffusion import _specification, errors
from kubediffusion._request import OmniDiffusionRequest
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import identifiers, images, values

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def test_empty_request_fills_nothing_in() -> None:
    assert OmniDiffusionRequest().to_spec() == worker_pb2.GenerationSpec()


def test_every_field_arrives() -> None:
    spec = OmniDiffusionRequest(
        "p",
        negative_prompt="n",
        height=8,
        width=16,
        num_inference_steps=3,
        guidance_scale=0.0,
        seed=2**64 - 1,
        num_outputs_per_prompt=2,
        num_frames=5,
        frames_per_second=24,
        strength=0.5,
        output_type="np",
        quality=90,
        model="m",
        generator_device="device",
        extra_args={"sigmas": [1.0, 0.5]},
    ).to_spec()
    assert spec == worker_pb2.GenerationSpec(
        prompt="p",
        negative_prompt="n",
        height=8,
        width=16,
        num_inference_steps=3,
        guidance_scale=0.0,
        seed=2**64 - 1,
        num_outputs=2,
        num_frames=5,
        strength=0.5,
        output=worker_pb2.OutputOptions(
            type=worker_pb2.OUTPUT_TYPE_FLOAT, quality=90, frames_per_second=24
        ),
        model="m",
        generator_device="device",
        extra_args={"sigmas": values.encode([1.0, 0.5])},
    )
    assert spec.HasField("guidance_scale")


def test_numbers_of_numpy_are_numbers() -> None:
    spec = OmniDiffusionRequest(
        height=numpy.int64(8),  # type: ignore[arg-type]  # an integer all the same
        guidance_scale=numpy.float32(0.5),  # type: ignore[arg-type]  # a number all the same
    ).to_spec()
    assert (spec.height, spec.guidance_scale) == (8, 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", 3),
        ("prompt", "lone \ud800 surrogate"),
        ("negative_prompt", b"bytes"),
        ("height", "8"),
        ("height", 8.5),
        ("height", True),
        ("height", 2**40),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 0.5),
        ("guidance_scale", "7"),
        ("guidance_scale", True),
        ("num_outputs_per_prompt", "two"),
        ("output_type", "tensor"),
        ("encoding", "bmp"),
        ("quality", 0),
        ("quality", 101),
        ("frames_per_second", 0),
        ("generator_device", "cuda"),
        ("lora_request", 3),
        ("lora_scale", "strong"),
        ("extra_args", ["sigmas"]),
        ("image", "a/path/as/text.png"),
        ("image", numpy.zeros((2, 2, 3))),
        ("image", pathlib.Path("/nowhere.png")),
        ("model", 5),
    ],
)
def test_wrong_type_or_range_names_the_field(field: str, value: object) -> None:
    request = OmniDiffusionRequest(**{field: value})  # type: ignore[arg-type]  # the mistake
    with pytest.raises(errors.InvalidRequestError) as caught:
        request.to_spec()
    assert [each.field for each in caught.value.violations] == [field]


def test_all_mistakes_are_told_at_once() -> None:
    request = OmniDiffusionRequest("p", height="8", seed=-1, strength="much")  # type: ignore[arg-type]  # the mistakes
    with pytest.raises(errors.InvalidRequestError, match="and 2 more") as caught:
        request.to_spec()
    assert {each.field for each in caught.value.violations} == {"height", "seed", "strength"}


def test_values_of_texts_stay_out_of_errors() -> None:
    with pytest.raises(errors.UnknownNameError) as caught:
        OmniDiffusionRequest(promt="a secret wish")  # type: ignore[call-arg]  # the typo
    assert "secret" not in str(caught.value)
    assert "did you mean 'prompt'" in str(caught.value)


def test_unknown_name_tells_its_number() -> None:
    with pytest.raises(errors.UnknownNameError, match=r"'guidence_scale' \(given 7.5\)"):
        OmniDiffusionRequest(guidence_scale=7.5)  # type: ignore[call-arg]  # the typo


def test_several_prompts_are_several_requests() -> None:
    with pytest.raises(errors.InvalidRequestError, match="one request per prompt"):
        OmniDiffusionRequest(["a", "b"])  # type: ignore[arg-type]  # the mistake


def test_too_large_request_is_refused_before_it_is_sent() -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (1500, 1500, 4), "u1")
    request = OmniDiffusionRequest("p", image=noise)
    with pytest.raises(errors.MessageTooLargeError, match="send images"):
        request.to_spec()


def picture() -> PIL.Image.Image:
    return PIL.Image.fromarray(numpy.arange(27, dtype="u1").reshape(3, 3, 3))


def encoded() -> bytes:
    file = io.BytesIO()
    picture().save(file, "PNG")
    return file.getvalue()


def test_pictures_come_in_many_forms(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded())
    raw = images.from_pil(picture())
    forms = [picture(), numpy.asarray(picture()), raw, encoded(), path]
    for form in forms:
        message = OmniDiffusionRequest(image=form, mask_image=form).to_spec()
        for found in (message.image, message.mask_image):
            pixels = images.from_message(found).to_pil().convert("RGB")
            assert pixels.tobytes() == picture().tobytes()


def test_grey_array_needs_no_axis_of_channels() -> None:
    spec = OmniDiffusionRequest(image=numpy.zeros((2, 3), "u1")).to_spec()
    assert (spec.image.raw.mode, spec.image.raw.width, spec.image.raw.height) == ("L", 3, 2)


@pytest.mark.parametrize(
    ("given", "uses"),
    [
        ("a", [("a", 0.7)]),
        (("a", 0.5), [("a", 0.5)]),
        ({"a": 0.5, "b": 2}, [("a", 0.5), ("b", 2.0)]),
        (["a", ("b", 0.1)], [("a", 0.7), ("b", 0.1)]),
        (("a", "b"), [("a", 0.7), ("b", 0.7)]),
        (types.SimpleNamespace(lora_name="a"), [("a", 0.7)]),
        ([], []),
        (None, [("default", 1.0)]),
    ],
)
def test_adapters_come_in_many_forms(given: object, uses: list[tuple[str, float]]) -> None:
    request = OmniDiffusionRequest(lora_request=given, lora_scale=0.7)  # type: ignore[arg-type]  # forms
    spec = request.to_spec([("default", 1.0)])
    assert [(use.name, use.scale) for use in spec.adapters] == uses


def test_digest_depends_on_the_content_alone() -> None:
    one = OmniDiffusionRequest("p", request_id="a", priority=1, deadline=5.0)
    other = OmniDiffusionRequest("p", request_id="b")
    assert identifiers.spec_digest(one.to_spec()) == identifiers.spec_digest(other.to_spec())
    different = OmniDiffusionRequest("q").to_spec()
    assert identifiers.spec_digest(different) != identifiers.spec_digest(one.to_spec())


def test_request_is_made_of_what_is_given() -> None:
    request = OmniDiffusionRequest("p", seed=3)
    assert OmniDiffusionRequest.of(request) is request
    assert OmniDiffusionRequest.of("p") == OmniDiffusionRequest("p")
    assert OmniDiffusionRequest.of({"prompt": "p", "seed": 3}) == request
    with pytest.raises(errors.InvalidRequestError, match="found 3"):
        OmniDiffusionRequest.of(3)  # type: ignore[arg-type]  # the mistake


def test_names_of_diffusers_and_upstream_are_known() -> None:
    given = OmniDiffusionRequest(num_images_per_prompt=2, fps=8)  # type: ignore[call-arg]  # not for checkers
    assert (given.num_outputs_per_prompt, given.frames_per_second) == (2, 8)


def test_deadline_is_a_time_from_now_or_a_moment() -> None:
    def moment(given: object) -> datetime.datetime | None:
        return _specification.deadline(OmniDiffusionRequest(deadline=given), NOW)  # type: ignore[arg-type]  # any

    assert moment(None) is None
    assert moment(60) == NOW + datetime.timedelta(minutes=1)
    assert moment(NOW) == NOW
    for wrong in (0, -1.0, True, "soon", 1e300, datetime.datetime(2026, 1, 1)):  # the mistake
        with pytest.raises(errors.InvalidRequestError, match="deadline"):
            moment(wrong)


@pytest.mark.parametrize("priority", [1001, -1001, 0.5, "high", True])
def test_priority_is_bounded(priority: object) -> None:
    request = OmniDiffusionRequest(priority=priority)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(errors.InvalidRequestError, match="priority"):
        _specification.priority(request)


def test_exactness_is_one_of_three() -> None:
    request = OmniDiffusionRequest(min_exactness="exact")
    assert _specification.min_exactness(request) == worker_pb2.EXACTNESS_EXACT
    request.min_exactness = "perfect"
    with pytest.raises(errors.InvalidRequestError, match="min_exactness"):
        _specification.min_exactness(request)

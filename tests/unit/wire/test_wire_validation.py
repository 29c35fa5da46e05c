import math
from typing import Any

import hypothesis
import numpy
import PIL.Image
import pytest
from google.protobuf import message
from hypothesis import strategies

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images, validation, values

Spec = worker_pb2.GenerationSpec


def parameter(
    name: str, *kinds: str, required: bool = False, none: bool = True
) -> worker_pb2.Parameter:
    return worker_pb2.Parameter(
        name=name, kinds=kinds or ["any"], is_required=required, accepts_none=none
    )


TEXT_TO_IMAGE = (
    parameter("prompt", "str", "list"),
    parameter("negative_prompt", "str", "list"),
    parameter("height", "int"),
    parameter("width", "int"),
    parameter("num_inference_steps", "int", none=False),
    parameter("guidance_scale", "float", none=False),
    parameter("num_images_per_prompt", "int"),
    parameter("eta", "float", none=False),
    parameter("clip_skip", "int"),
    parameter("sigmas", "list"),
    parameter("latents", "tensor"),
    parameter("ip_adapter_image", "image", "tensor", "list"),
    parameter("cross_attention_kwargs", "dict"),
    parameter("use_resolution_binning", "bool", none=False),
    parameter("sampler", "str"),
    parameter("anything"),
    parameter("generator"),
    parameter("output_type", "str"),
    parameter("return_dict", "bool"),
)
NO_LIMITS = worker_pb2.Limits()


def check(
    spec: Spec,
    parameters: tuple[worker_pb2.Parameter, ...] = TEXT_TO_IMAGE,
    **limits: int,
) -> list[errors.Violation]:
    return validation.check_spec(spec, parameters, worker_pb2.Limits(**limits))


def the_one(spec: Spec, **limits: int) -> errors.Violation:
    (violation,) = check(spec, TEXT_TO_IMAGE, **limits)
    return violation


def with_extra(name: str, value: object) -> Spec:
    spec = Spec(prompt="p")
    spec.extra_args[name].CopyFrom(values.encode(value))
    return spec


def raw_image() -> worker_pb2.Image:
    return images.to_message(images.from_pil(PIL.Image.new("RGB", (8, 8))))


def test_a_full_request_passes() -> None:
    spec = Spec(
        prompt="a red circle",
        negative_prompt="blue",
        height=512,
        width=768,
        num_inference_steps=50,
        guidance_scale=0.0,
        seed=2**64 - 4,
        num_outputs=4,
        adapters=[worker_pb2.AdapterUse(name="style", scale=0.5)],
        output=worker_pb2.OutputOptions(encoding=worker_pb2.ENCODING_JPEG, quality=90),
        generator_device="device",
    )
    spec.extra_args["eta"].integer = 1
    spec.extra_args["clip_skip"].null = worker_pb2.NULL_VALUE_UNSPECIFIED
    assert check(spec) == []


def test_an_empty_request_passes_where_nothing_is_required() -> None:
    assert check(Spec()) == []


@pytest.mark.parametrize(
    ("fields", "field", "description"),
    [
        ({"height": 0}, "height", "must be from 1 to 4096 pixels; found 0"),
        ({"height": -8}, "height", "must be from 1 to 4096 pixels; found -8"),
        ({"width": 4097}, "width", "must be from 1 to 4096 pixels; found 4097"),
        (
            {"num_inference_steps": -1},
            "num_inference_steps",
            "must be from 1 to 1000 steps; found -1",
        ),
        ({"num_outputs": 0}, "num_outputs", "must be from 1 to 64 outputs; found 0"),
        ({"num_outputs": 65}, "num_outputs", "must be from 1 to 64 outputs; found 65"),
        ({"guidance_scale": math.nan}, "guidance_scale", "must be a finite number; found nan"),
        ({"guidance_scale": -math.inf}, "guidance_scale", "must be a finite number; found -inf"),
        (
            {"seed": 2**64 - 3, "num_outputs": 4},
            "seed",
            "must be below 2**64 for every output (seed + 3); found 18446744073709551613",
        ),
        (
            {"generator_device": "cuda"},
            "generator_device",
            'must be "cpu" or "device"; found \'cuda\'',
        ),
    ],
)
def test_a_number_out_of_bounds_is_named(
    fields: dict[str, Any], field: str, description: str
) -> None:
    assert the_one(Spec(**fields)) == errors.Violation(field, description)


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({"height": 1025}, {"max_height": 1024}),
        ({"width": 1025}, {"max_width": 1024}),
        ({"num_inference_steps": 101}, {"max_steps": 100}),
        ({"num_outputs": 3}, {"max_outputs": 2}),
        ({"prompt": "x" * 11}, {"max_prompt_bytes": 10}),
        ({"negative_prompt": "é" * 6}, {"max_prompt_bytes": 10}),
    ],
)
def test_the_workers_limits_hold(fields: dict[str, Any], limits: dict[str, Any]) -> None:
    assert the_one(Spec(**fields), **limits).field == next(iter(fields))


def test_frames_are_bounded() -> None:
    parameters = (parameter("num_frames", "int"),)
    (violation,) = check(Spec(num_frames=17), parameters, max_frames=16)
    assert violation == errors.Violation("num_frames", "must be from 1 to 16 frames; found 17")


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_strength_is_from_0_to_1(strength: float) -> None:
    parameters = (parameter("strength", "float"),)
    assert check(Spec(strength=0.0), parameters) == check(Spec(strength=1.0), parameters) == []
    (violation,) = check(Spec(strength=strength), parameters)
    assert violation.field == "strength"


def test_a_long_prompt_is_measured_and_not_quoted() -> None:
    violation = the_one(Spec(prompt="secret " * 200_000))
    assert violation.description == "must have at most 32768 bytes of UTF-8; found 1400000"


def test_a_misspelled_parameter_names_the_nearest() -> None:
    violation = the_one(with_extra("clip_skp", 2))
    assert violation == errors.Violation(
        "extra_args.clip_skp",
        "must be a parameter that this pipeline accepts; found 'clip_skp' with the value "
        "2 (int); did you mean clip_skip?",
    )


def test_an_unknown_parameter_without_neighbours_lists_what_there_is() -> None:
    description = the_one(with_extra("zzzzzz", 2)).description
    assert "it accepts anything, clip_skip, cross_attention_kwargs, eta" in description
    assert "generator" not in description


def test_the_text_of_an_unknown_parameter_is_not_quoted() -> None:
    description = the_one(with_extra("promt", "a secret")).description
    assert "str of length 8" in description
    assert "secret" not in description


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("height", "use height"),
        ("prompt", "use prompt"),
        ("num_images_per_prompt", "use num_outputs"),
        ("num_outputs", "use num_outputs"),
        ("generator", "use seed and generator_device"),
        ("output_type", "use output"),
        ("return_dict", "leave it out"),
        ("callback_on_step_end", "watch the events"),
    ],
)
def test_an_argument_in_the_wrong_place_says_where_it_belongs(name: str, advice: str) -> None:
    violation = the_one(with_extra(name, 1))
    assert violation.field == f"extra_args.{name}"
    assert violation.description.endswith(advice)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eta", 0.5),
        ("eta", 1),
        ("clip_skip", 2),
        ("clip_skip", 2**70),
        ("clip_skip", None),
        ("sigmas", [1.0, 0.5]),
        ("sigmas", (1.0, 0.5)),
        ("latents", numpy.zeros((1, 4), numpy.float32)),
        ("ip_adapter_image", PIL.Image.new("L", (2, 2))),
        ("cross_attention_kwargs", {"scale": 0.5}),
        ("use_resolution_binning", False),
        ("sampler", "ddim"),
        ("anything", True),
        ("anything", None),
        ("anything", b"bytes"),
        ("anything", [{"a": 1}]),
    ],
)
def test_a_value_of_an_accepted_type_passes(name: str, value: object) -> None:
    assert check(with_extra(name, value)) == []


@pytest.mark.parametrize(
    ("name", "value", "description"),
    [
        ("eta", "0.5", "must be of type float; found str of length 3"),
        ("eta", True, "must be of type float; found True (bool)"),
        ("eta", None, "must be of type float; found None"),
        ("clip_skip", 2.0, "must be of type int or None; found 2.0 (float)"),
        ("clip_skip", False, "must be of type int or None; found False (bool)"),
        ("clip_skip", [1], "must be of type int or None; found list of 1"),
        ("use_resolution_binning", 1, "must be of type bool; found 1 (int)"),
        ("sigmas", {"a": 1}, "must be of type list or None; found dict of 1"),
        ("latents", [1.0], "must be of type tensor or None; found list of 1"),
        ("sampler", b"ddim", "must be of type str or None; found bytes of length 4"),
        ("sampler", 10**30, "must be of type str or None; found int of 31 digits"),
    ],
)
def test_a_value_of_another_type_is_named(name: str, value: object, description: str) -> None:
    violation = the_one(with_extra(name, value))
    assert violation == errors.Violation(f"extra_args.{name}", description)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (math.nan, "extra_args.anything"),
        ([1.0, math.inf], "extra_args.anything[1]"),
        ({"a": (math.nan,)}, "extra_args.anything.a[0]"),
    ],
)
def test_numbers_that_are_not_finite_are_found_at_any_depth(value: object, field: str) -> None:
    assert the_one(with_extra("anything", value)).field == field


def test_a_broken_value_is_found() -> None:
    spec = Spec()
    tensor = spec.extra_args["latents"].tensor
    tensor.dtype = worker_pb2.DATA_TYPE_FLOAT32
    tensor.shape.append(2**40)
    assert the_one(spec).field == "extra_args.latents"


def test_a_value_without_a_kind_is_found() -> None:
    spec = Spec()
    spec.extra_args["anything"].SetInParent()
    assert the_one(spec).field == "extra_args.anything"


def test_too_many_arguments_are_counted_and_not_read() -> None:
    spec = Spec()
    for index in range(10_000):
        spec.extra_args[f"x{index}"].integer = index
    assert the_one(spec) == errors.Violation("extra_args", "must be at most 256; found 10000")


def test_a_field_that_the_pipeline_lacks_is_named() -> None:
    (violation,) = check(Spec(prompt="p", negative_prompt="n"), (parameter("prompt", "str"),))
    assert violation == errors.Violation(
        "negative_prompt",
        "must be left out: this pipeline does not accept it; it accepts prompt",
    )


def test_a_single_output_needs_no_parameter() -> None:
    parameters = (parameter("prompt", "str"),)
    assert check(Spec(num_outputs=1), parameters) == []
    assert [v.field for v in check(Spec(num_outputs=2), parameters)] == ["num_outputs"]


def test_a_missing_required_field_is_named() -> None:
    parameters = (
        parameter("prompt", "str", required=True),
        parameter("class_labels", "list", required=True),
    )
    assert [violation.field for violation in check(Spec(), parameters)] == [
        "prompt",
        "extra_args.class_labels",
    ]
    spec = Spec(prompt="p")
    spec.extra_args["class_labels"].CopyFrom(values.encode([1]))
    assert check(spec, parameters) == []


def test_names_are_not_checked_where_the_parameters_are_unknown() -> None:
    spec = with_extra("whatever", 1)
    spec.negative_prompt = "n"
    assert check(spec, ()) == []
    assert [violation.field for violation in check(with_extra("generator", 1), ())] == [
        "extra_args.generator"
    ]


def test_images_are_checked_before_they_are_opened() -> None:
    parameters = (parameter("image", "image"), parameter("mask_image", "image"))
    good = Spec(image=raw_image(), mask_image=raw_image())
    assert check(good, parameters) == []
    bad = Spec(image=worker_pb2.Image(encoded=b"GIF89a"), mask_image=worker_pb2.Image())
    assert [violation.field for violation in check(bad, parameters)] == ["image", "mask_image"]


def test_a_mask_needs_an_image() -> None:
    parameters = (parameter("image", "image"), parameter("mask_image", "image"))
    (violation,) = check(Spec(mask_image=raw_image()), parameters)
    assert violation == errors.Violation(
        "mask_image", "must come with an image; found none; add the image"
    )


@pytest.mark.parametrize(
    ("uses", "field"),
    [
        ([("a/b", 1.0)], "adapters[0].name"),
        ([("", 1.0)], "adapters[0].name"),
        ([("a", 1.0), ("a", 0.5)], "adapters[1].name"),
        ([("a", math.nan)], "adapters[0].scale"),
        ([(f"a{index}", 1.0) for index in range(65)], "adapters"),
    ],
)
def test_adapters_have_good_names_and_scales(uses: list[tuple[str, float]], field: str) -> None:
    adapters = [worker_pb2.AdapterUse(name=name, scale=scale) for name, scale in uses]
    assert the_one(Spec(adapters=adapters)).field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"quality": 101}, "output.quality"),
        ({"quality": -1}, "output.quality"),
        ({"frames_per_second": -1.0}, "output.frames_per_second"),
        ({"frames_per_second": math.nan}, "output.frames_per_second"),
        ({"frames_per_second": 1e9}, "output.frames_per_second"),
        ({"encoding": 99}, "output.encoding"),
        ({"type": 99}, "output.type"),
        (
            {"encoding": worker_pb2.ENCODING_PNG, "type": worker_pb2.OUTPUT_TYPE_LATENT},
            "output.encoding",
        ),
    ],
)
def test_output_options_are_checked(options: dict[str, Any], field: str) -> None:
    output = worker_pb2.OutputOptions(**options)
    assert the_one(Spec(output=output)).field == field


def test_another_model_is_refused() -> None:
    spec = Spec(model="other")
    (violation,) = validation.check_spec(spec, (), NO_LIMITS, models=["org/sd", "sd"])
    assert violation.description == (
        "must be 'org/sd' or 'sd'; found 'other'; leave it out for the resident model"
    )
    assert validation.check_spec(Spec(model="sd"), (), NO_LIMITS, models=["sd"]) == []
    assert validation.check_spec(Spec(), (), NO_LIMITS, models=["sd"]) == []


def test_all_violations_are_found_at_once() -> None:
    spec = with_extra("nonsense_parameter", 1)
    spec.height, spec.width, spec.num_inference_steps = -1, -1, -1
    assert [violation.field for violation in check(spec)] == [
        "height",
        "width",
        "num_inference_steps",
        "extra_args.nonsense_parameter",
    ]


def test_the_first_parameter_that_a_pipeline_has_is_meant() -> None:
    assert validation.parameter_of("num_outputs", {"num_videos_per_prompt"}) == (
        "num_videos_per_prompt"
    )
    assert validation.parameter_of("num_outputs", {"prompt"}) is None


def test_nearest_names_come_best_first() -> None:
    known = ["guidance_scale", "guidance_rescale", "height"]
    assert validation.nearest("guidence_scale", known) == ["guidance_scale", "guidance_rescale"]
    assert validation.nearest("x" * 100_000, known) == []


@hypothesis.given(strategies.binary())
def test_random_specifications_give_violations_and_never_raise(data: bytes) -> None:
    spec = Spec()
    try:
        spec.MergeFromString(data)
    except message.DecodeError:
        return
    for violation in check(spec):
        assert violation.field
        assert len(violation.description) < 2000


@hypothesis.given(
    strategies.text(strategies.characters(exclude_categories=["Cs"]), max_size=300),
    strategies.one_of(
        strategies.none(), strategies.booleans(), strategies.integers(), strategies.floats()
    ),
)
def test_any_name_and_value_gives_short_violations(name: str, value: object) -> None:
    for violation in check(with_extra(name, value)):
        assert len(violation.field) + len(violation.description) < 1000

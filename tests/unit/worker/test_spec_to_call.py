import diffusers
import numpy
import PIL.Image
import pytest
import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images, values
from kubediffusion_worker import calls, signature, variants


def task_call(pipeline_class: type) -> variants.TaskCall:
    return variants.TaskCall(
        class_name=pipeline_class.__name__,
        signature=signature.call_parameters(pipeline_class),
        parameters=signature.parameters(pipeline_class),
    )


CALLS = {
    variants.Task.OWN: task_call(diffusers.StableDiffusionPipeline),  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
    variants.Task.IMAGE_TO_IMAGE: task_call(diffusers.StableDiffusionImg2ImgPipeline),  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
}
FLUX = {variants.Task.OWN: task_call(diffusers.FluxPipeline)}  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
WAN = {variants.Task.OWN: task_call(diffusers.WanPipeline)}  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
PIXART = {variants.Task.OWN: task_call(diffusers.PixArtSigmaPipeline)}  # pyright: ignore[reportPrivateImportUsage]  # exported lazily


def prepare(
    spec: worker_pb2.GenerationSpec,
    table: dict[variants.Task, variants.TaskCall] | None = None,
) -> calls.PipelineCall:
    return calls.prepare(spec, table or CALLS, device="cpu")


def extra(**arguments: object) -> worker_pb2.GenerationSpec:
    return worker_pb2.GenerationSpec(
        prompt="x", extra_args={name: values.encode(each) for name, each in arguments.items()}
    )


def picture(mode: str = "RGB") -> worker_pb2.Image:
    return images.to_message(images.from_pil(PIL.Image.new(mode, (4, 2))))


def test_only_what_was_given_is_passed() -> None:
    spec = worker_pb2.GenerationSpec(prompt="a cat", height=64)
    assert prepare(spec).arguments == {"prompt": "a cat", "height": 64}


def test_values_that_are_zero_or_empty_are_given_too() -> None:
    spec = worker_pb2.GenerationSpec(prompt="", guidance_scale=0.0)
    assert prepare(spec).arguments == {"prompt": "", "guidance_scale": 0.0}


def test_every_plain_field_reaches_its_parameter() -> None:
    spec = worker_pb2.GenerationSpec(
        prompt="a",
        negative_prompt="b",
        height=8,
        width=16,
        num_inference_steps=3,
        guidance_scale=1.5,
        num_frames=9,
    )
    assert prepare(spec, WAN).arguments == {
        "prompt": "a",
        "negative_prompt": "b",
        "height": 8,
        "width": 16,
        "num_inference_steps": 3,
        "guidance_scale": 1.5,
        "num_frames": 9,
    }


def test_number_of_outputs_becomes_a_number_of_calls() -> None:
    call = prepare(worker_pb2.GenerationSpec(prompt="a", num_outputs=3))
    assert call.num_outputs == 3
    assert "num_images_per_prompt" not in call.arguments


def test_picture_asks_for_the_task_that_takes_one() -> None:
    call = prepare(worker_pb2.GenerationSpec(prompt="a", image=picture(), strength=0.5))
    assert call.task is variants.Task.IMAGE_TO_IMAGE
    found = call.arguments["image"]
    assert isinstance(found, PIL.Image.Image)
    assert (found.mode, found.size) == ("RGB", (4, 2))


def test_tensors_come_as_torch_tensors_with_their_type() -> None:
    tensor = torch.randn(1, 4, dtype=torch.bfloat16)
    found = prepare(extra(latents=tensor)).arguments["latents"]
    assert isinstance(found, torch.Tensor)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, tensor)


def test_lists_and_dicts_are_rebuilt_inside() -> None:
    arguments = prepare(
        extra(
            ip_adapter_image_embeds=[torch.ones(2), torch.zeros(2)],
            cross_attention_kwargs={"scale": 0.5, "mask": numpy.ones((2, 2), "float32")},
        )
    ).arguments
    embeddings, options = arguments["ip_adapter_image_embeds"], arguments["cross_attention_kwargs"]
    assert isinstance(embeddings, list)
    assert isinstance(options, dict)
    assert all(isinstance(each, torch.Tensor) for each in embeddings)
    assert isinstance(options["mask"], torch.Tensor)
    assert options["scale"] == 0.5


def test_pictures_in_lists_come_as_pictures() -> None:
    pictures = [PIL.Image.new("RGB", (4, 4))] * 2
    found = prepare(extra(ip_adapter_image=pictures)).arguments["ip_adapter_image"]
    assert isinstance(found, list)
    assert all(isinstance(each, PIL.Image.Image) for each in found)


def test_several_pictures_for_one_call_come_as_further_arguments() -> None:
    spec = extra(image=[PIL.Image.new("RGB", (4, 4))] * 2)
    call = prepare(spec)
    assert call.task is variants.Task.IMAGE_TO_IMAGE
    found = call.arguments["image"]
    assert isinstance(found, list)
    assert len(found) == 2


def test_one_picture_has_a_field_of_its_own() -> None:
    with pytest.raises(errors.InvalidRequestError, match="use image"):
        prepare(extra(image=PIL.Image.new("RGB", (4, 4))))
    several = extra(image=[PIL.Image.new("RGB", (4, 4))])
    several.image.CopyFrom(picture())
    with pytest.raises(errors.InvalidRequestError, match="use image"):
        prepare(several)


def test_embeddings_take_the_place_of_texts_with_a_default() -> None:
    spec = worker_pb2.GenerationSpec(
        extra_args={
            "prompt_embeds": values.encode(torch.zeros(1)),
            "negative_prompt_embeds": values.encode(torch.zeros(1)),
        }
    )
    arguments = prepare(spec, PIXART).arguments
    assert arguments["negative_prompt"] is None
    assert arguments["prompt"] is None


@pytest.mark.parametrize(
    ("wanted", "table", "argument"),
    [
        (worker_pb2.OUTPUT_TYPE_UNSPECIFIED, CALLS, None),
        (worker_pb2.OUTPUT_TYPE_UINT8, CALLS, None),
        (worker_pb2.OUTPUT_TYPE_FLOAT, CALLS, "np"),
        (worker_pb2.OUTPUT_TYPE_LATENT, CALLS, "latent"),
        (worker_pb2.OUTPUT_TYPE_UINT8, WAN, None),
        (worker_pb2.OUTPUT_TYPE_FLOAT, WAN, None),
        (worker_pb2.OUTPUT_TYPE_LATENT, WAN, "latent"),
    ],
)
def test_output_type_is_one_that_the_pipeline_knows(
    wanted: worker_pb2.OutputType,
    table: dict[variants.Task, variants.TaskCall],
    argument: str | None,
) -> None:
    spec = worker_pb2.GenerationSpec(prompt="a", output=worker_pb2.OutputOptions(type=wanted))
    assert prepare(spec, table).arguments.get("output_type") == argument


def test_generator_lives_on_the_cpu_unless_told_otherwise() -> None:
    spec = worker_pb2.GenerationSpec(prompt="a")
    assert calls.prepare(spec, CALLS, device="meta").generator_device == "cpu"
    spec.generator_device = "device"
    assert calls.prepare(spec, CALLS, device="meta").generator_device == "meta"


def test_all_texts_of_a_request_are_secrets() -> None:
    spec = extra(prompt_2=["deep", "deeper"])
    spec.negative_prompt = "dull"
    assert prepare(spec, FLUX).secrets == {"x", "dull", "deep", "deeper"}


def test_picture_for_a_pipeline_without_pictures_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        prepare(worker_pb2.GenerationSpec(prompt="a", image=picture()), WAN)
    assert [violation.field for violation in caught.value.violations] == ["image"]


def test_bounds_are_left_to_the_runtime() -> None:
    spec = worker_pb2.GenerationSpec(prompt="a" * 100_000, height=80_000, num_outputs=1000)
    calls.check(spec, CALLS)


def test_all_mistakes_are_reported_at_once() -> None:
    spec = worker_pb2.GenerationSpec(
        prompt="a",
        num_frames=3,
        guidance_scale=float("nan"),
        extra_args={"promt": values.encode("b")},
    )
    with pytest.raises(errors.InvalidRequestError) as caught:
        prepare(spec)
    assert {violation.field for violation in caught.value.violations} == {
        "num_frames",
        "guidance_scale",
        "extra_args.promt",
    }

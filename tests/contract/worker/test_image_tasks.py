"""A text-to-image pipeline that is given a picture does what its family has for that."""

import io
from typing import Any

import diffusers
import numpy
import PIL.Image
import pytest
import torch

import run_observers
import zoo
import zoo_parts
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images
from kubediffusion_worker import pipeline, runs

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

SPEC = worker_pb2.GenerationSpec(
    prompt="a red cat", guidance_scale=5.0, num_inference_steps=4, strength=0.75
)


@pytest.fixture(scope="module")
def shared() -> pipeline.SharedPipeline:
    return pipeline.SharedPipeline.from_pipeline(zoo.build("sd15").pipeline)


def message(picture: PIL.Image.Image) -> worker_pb2.Image:
    return images.to_message(images.from_pil(picture))


def spec_with(
    image: PIL.Image.Image | None = None,
    mask_image: PIL.Image.Image | None = None,
    **fields: Any,
) -> worker_pb2.GenerationSpec:
    spec = worker_pb2.GenerationSpec()
    spec.CopyFrom(SPEC)
    if image is not None:
        spec.image.CopyFrom(message(image))
    if mask_image is not None:
        spec.mask_image.CopyFrom(message(mask_image))
    spec.MergeFrom(worker_pb2.GenerationSpec(**fields))
    return spec


def run(
    shared: pipeline.SharedPipeline, spec: worker_pb2.GenerationSpec
) -> tuple[runs.RunOutcome, run_observers.Recorder]:
    recorder = run_observers.Recorder()
    return shared.start_run(spec, seed=3, observer=recorder).execute(), recorder


def plain_arguments(**more: object) -> dict[str, object]:
    return {
        "prompt": "a red cat",
        "guidance_scale": 5.0,
        "num_inference_steps": 4,
        "strength": 0.75,
        "generator": torch.Generator("cpu").manual_seed(3),
        **more,
    }


def test_picture_makes_it_image_to_image(shared: pipeline.SharedPipeline) -> None:
    picture = zoo_parts.picture()
    plain = diffusers.AutoPipelineForImage2Image.from_pipe(zoo.build("sd15").pipeline)  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
    wanted = plain(**plain_arguments(image=picture)).images[0]
    outcome, _ = run(shared, spec_with(image=picture))
    assert bytes(outcome.outputs[0].data) == numpy.asarray(wanted).tobytes()


def test_picture_and_mask_make_it_inpainting(shared: pipeline.SharedPipeline) -> None:
    picture, mask = zoo_parts.picture(), zoo_parts.mask()
    plain = diffusers.AutoPipelineForInpainting.from_pipe(zoo.build("sd15").pipeline)  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
    arguments = plain_arguments(image=picture, mask_image=mask, height=32, width=32)
    wanted = plain(**arguments).images[0]
    outcome, _ = run(shared, spec_with(picture, mask, height=32, width=32))
    assert bytes(outcome.outputs[0].data) == numpy.asarray(wanted).tobytes()


def test_text_to_image_gives_the_same_after_other_tasks(
    shared: pipeline.SharedPipeline,
) -> None:
    spec = worker_pb2.GenerationSpec(prompt="a dog", height=32, width=32, num_inference_steps=2)
    before, _ = run(shared, spec)
    run(shared, spec_with(zoo_parts.picture(), zoo_parts.mask(), height=32, width=32))
    after, _ = run(shared, spec)
    assert bytes(before.outputs[0].data) == bytes(after.outputs[0].data)


def test_progress_counts_the_steps_that_strength_leaves(
    shared: pipeline.SharedPipeline,
) -> None:
    _, recorder = run(shared, spec_with(image=zoo_parts.picture()))
    assert [(each.step, each.total) for each in recorder.reports] == [(1, 3), (2, 3), (3, 3)]


def test_parameters_of_all_tasks_are_published(shared: pipeline.SharedPipeline) -> None:
    published = {parameter.name: parameter for parameter in shared.parameters}
    assert published.keys() >= {"prompt", "height", "image", "mask_image", "strength"}
    assert not published["image"].is_required


def test_field_that_the_task_does_not_take_is_refused_by_name(
    shared: pipeline.SharedPipeline,
) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        shared.check(spec_with(image=zoo_parts.picture(), height=32))
    assert [violation.field for violation in caught.value.violations] == ["height"]


def test_strength_without_a_picture_is_refused(shared: pipeline.SharedPipeline) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        shared.check(SPEC)
    assert [violation.field for violation in caught.value.violations] == ["strength"]


def test_pipeline_of_a_family_without_such_tasks_takes_no_picture() -> None:
    shared = pipeline.SharedPipeline.from_pipeline(zoo.build("dit").pipeline)
    spec = worker_pb2.GenerationSpec(image=message(zoo_parts.picture()))
    with pytest.raises(errors.InvalidRequestError) as caught:
        shared.check(spec)
    assert "image" in [violation.field for violation in caught.value.violations]


def test_pipeline_that_takes_pictures_itself_is_called_itself() -> None:
    specimen = zoo.shared("sd_controlnet")
    shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    spec = worker_pb2.GenerationSpec(
        prompt="a red cat",
        image=message(zoo_parts.picture()),
        height=32,
        width=32,
        num_inference_steps=1,
    )
    assert run(shared, spec)[0].steps == 1


def test_file_with_a_palette_becomes_colours(shared: pipeline.SharedPipeline) -> None:
    palette = zoo_parts.picture().convert("P")
    spec = spec_with(image=zoo_parts.picture())
    file = io.BytesIO()
    palette.save(file, "PNG")
    spec.image.CopyFrom(worker_pb2.Image(encoded=file.getvalue()))
    outcome, _ = run(shared, spec)
    same, _ = run(shared, spec_with(image=palette.convert("RGB")))
    assert bytes(outcome.outputs[0].data) == bytes(same.outputs[0].data)


def test_picture_for_flux_uses_its_own_pipeline() -> None:
    specimen = zoo.build("flux")
    shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    assert {"image", "mask_image", "strength"} <= {each.name for each in shared.parameters}

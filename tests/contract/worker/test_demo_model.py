# diffusers' and transformers' annotations refuse what their classes take, such as None for a
# safety checker or the values of a configuration.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportReturnType=false
import functools
import pathlib
from collections.abc import Iterator

import diffusers
import numpy
import PIL.Image
import pytest
import torch

from kubediffusion_worker import demo
from kubediffusion_worker.demo import judge, scene

PROMPTS = 200
PART = 50
BATCH = 10
STEPS = 16
GUIDANCE_SCALE = 1.5
LEAST_SHARE = 0.9


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on two busy cores wait for each other and are many times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def pipeline() -> diffusers.StableDiffusionPipeline:
    loaded = diffusers.DiffusionPipeline.from_pretrained(demo.model_path(), dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generated(prompts: list[str]) -> numpy.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    images = pipeline()(
        prompts,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE_SCALE,
        generator=generators,
        output_type="np",
    ).images
    return numpy.rint(images * 255).astype(numpy.uint8)


# In parts, so that none comes near the time limit on a busy machine.
@pytest.mark.parametrize("first", range(0, PROMPTS, PART))
def test_held_out_prompts_are_drawn_right(first: int) -> None:
    wrong = []
    for start in range(first, first + PART, BATCH):
        batch = scene.held_out_prompts(PROMPTS)[start : start + BATCH]
        verdicts = map(judge.judge, generated(batch), batch)
        wrong += [verdict for verdict in verdicts if not verdict.is_right]
    assert len(wrong) <= (1 - LEAST_SHARE) * PART, wrong


def test_default_loading_gives_weights_of_one_width() -> None:
    loaded = diffusers.DiffusionPipeline.from_pretrained(demo.model_path())
    widths = {part.dtype for part in (loaded.unet, loaded.vae, loaded.text_encoder)}
    assert widths == {torch.float32}


@pytest.mark.parametrize("prompt", ["", "a photo of a cat", "日本 😀", "red " * 100])
def test_any_text_gives_a_picture(prompt: str) -> None:
    image = pipeline()(prompt, num_inference_steps=2).images[0]
    assert image.size == (192, 192)


# diffusers 0.42 calls numpy.array(tensor, copy=False) in two of these schedulers.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler,
        diffusers.EulerDiscreteScheduler,
        diffusers.DPMSolverMultistepScheduler,
    ],
)
def test_other_schedulers_draw_right(scheduler: type[diffusers.SchedulerMixin]) -> None:
    usual = pipeline()
    other = diffusers.StableDiffusionPipeline(
        **{**usual.components, "scheduler": scheduler.from_config(usual.scheduler.config)},
        requires_safety_checker=False,
    )
    other.set_progress_bar_config(disable=True)
    prompt = "a blue square on a yellow background"
    image = other(
        prompt,
        num_inference_steps=20,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert judge.judge(numpy.asarray(image), prompt).reasons == ()


def test_image_to_image_and_inpainting_take_the_same_parts() -> None:
    prompt = "a red circle on a blue background"
    start = PIL.Image.new("RGB", (192, 192), "white")
    parts = pipeline().components
    for kind, more in (
        (diffusers.StableDiffusionImg2ImgPipeline, {}),
        (diffusers.StableDiffusionInpaintPipeline, {"mask_image": start}),
    ):
        other = kind(**parts, requires_safety_checker=False)
        images = other(prompt, image=start, num_inference_steps=4, **more).images
        assert images[0].size == (192, 192)


def test_folder_holds_only_safetensors_and_text() -> None:
    files = [path for path in demo.model_path().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md"}


def test_folder_is_small() -> None:
    assert sum(map(_size, demo.model_path().rglob("*"))) <= 12_000_000


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.is_file() else 0

# diffusers exports lazily, and its annotations refuse its own defaults.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false
"""Previews of real pipelines: what they show, and that they cost and disturb nothing."""

import functools
import pathlib
import warnings
from typing import Any

import diffusers
import numpy
import pytest
import torch

import zoo
from kubediffusion_worker import demo, loading, model, previews

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

PROMPT = "a red circle on a blue background"


@functools.cache
def drawn() -> tuple[torch.Tensor, numpy.ndarray[Any, Any]]:
    """Returns finished latents of the demo model and the picture that they stand for."""
    pipeline = demo_pipeline()

    def call(output_type: str) -> Any:
        generator = torch.Generator().manual_seed(3)
        made = pipeline(
            prompt=PROMPT,
            guidance_scale=1.5,
            num_inference_steps=16,
            generator=generator,
            output_type=output_type,
        )
        return made.images

    return call("latent"), call("np")[0]


@functools.cache
def demo_pipeline() -> Any:  # diffusers exports its classes lazily
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = diffusers.StableDiffusionPipeline.from_pretrained(demo.model_path())
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_a_preview_has_the_shapes_of_the_picture() -> None:
    latents, picture = drawn()
    painter = previews.painter_of(demo_pipeline())
    assert painter is not None
    painted = painter.paint(latents, aspect=1.0)
    assert painted is not None
    small = torch.nn.functional.interpolate(
        torch.from_numpy(picture).movedim(-1, 0)[None], painted.shape[:2], mode="area"
    )[0].movedim(0, -1)
    is_red = (small[..., 0] > 0.5).flatten()
    looks_red = (painted[..., 0].float() > painted[..., 2].float()).flatten()
    assert float((is_red == looks_red).float().mean()) > 0.95


@pytest.mark.parametrize(
    "name", ["sd15", "sana", "wan", "ltx", "flux2", "qwen_image", "cogvideox"]
)
def test_a_painter_is_fitted_to_each_kind_of_autoencoder(name: str) -> None:
    pipeline = zoo.shared(name).pipeline
    painter = previews.painter_of(pipeline)
    assert isinstance(painter, previews.LinearPainter)
    assert painter.colours.isfinite().all()
    assert painter.patch_colours.shape[0] - 1 == 4 * (painter.colours.shape[0] - 1)


def test_a_pipeline_without_pictures_has_no_painter() -> None:
    assert previews.painter_of(zoo.shared("stable_audio").pipeline) is None


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((1, 4, 6, 8), (6, 8, 3)),
        ((2, 4, 5, 6, 8), (6, 8, 3)),
        ((1, 5, 4, 6, 8), (6, 8, 3)),
        ((1, 48, 4), (6, 8, 3)),
        ((1, 48, 16), (6, 8, 3)),
        ((1, 4, 600, 512), (200, 171, 3)),
    ],
)
def test_latents_of_all_layouts_become_pictures(
    shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    painter = previews.LinearPainter(colours=torch.ones(5, 3), patch_colours=torch.ones(17, 3))
    painted = painter.paint(torch.zeros(shape), aspect=8 / 6)
    assert painted is not None
    assert (painted.shape, painted.dtype) == (wanted, torch.uint8)


def test_latents_of_another_kind_become_none() -> None:
    painter = previews.LinearPainter(colours=torch.ones(5, 3), patch_colours=torch.ones(17, 3))
    assert painter.paint(torch.zeros(1, 7, 7), aspect=1.0) is None


def test_a_tiny_autoencoder_that_is_mounted_draws_instead(tmp_path: pathlib.Path) -> None:
    tiny = diffusers.AutoencoderTiny(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    tiny.save_pretrained(tmp_path)
    shared = loading.load(
        model.ModelConfig(model="demo", device="cpu", preview_vae=str(tmp_path), certify=False)
    )
    assert isinstance(shared.painter, previews.DecodingPainter)
    painted = shared.painter.paint(torch.zeros(1, 4, 6, 8), aspect=1.0)
    assert painted is not None
    assert (painted.shape, painted.dtype) == ((48, 64, 3), torch.uint8)


def test_a_preview_autoencoder_that_is_none_is_told_in_one_line(tmp_path: pathlib.Path) -> None:
    config = model.ModelConfig(model="demo", device="cpu", preview_vae=str(tmp_path))
    with pytest.raises(model.ModelLoadError, match=r"preview VAE .* must be a folder"):
        loading.load(config)

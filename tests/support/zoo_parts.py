# diffusers exports lazily, and its annotations refuse what its classes take, such as None for a
# text encoder or a tuple of several sizes.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
"""Small parts that the pipelines of the zoo are made of, with random weights."""

import functools
import json
import pathlib
import string
import tempfile
from typing import TypeVar

import diffusers
import numpy
import PIL.Image
import torch
import transformers

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)

SD_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def seeded(seed: int = 0) -> None:
    """Seeds what the weights of the next module are drawn from."""
    torch.manual_seed(seed)


def frozen(module: ModuleT) -> ModuleT:
    """Returns the module as a loaded one would be: for inference only."""
    module.eval()
    module.requires_grad_(False)
    return module


def noise(*shape: int, seed: int) -> torch.Tensor:
    """Stands in for the embedding of a prompt: float32, normally distributed."""
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(seed))


def picture(width: int = 32, height: int = 32, seed: int = 0) -> PIL.Image.Image:
    """Returns an RGB picture of coloured noise."""
    values = numpy.random.RandomState(seed).rand(height, width, 3) * 255
    return PIL.Image.fromarray(values.astype("uint8"))


def mask(width: int = 32, height: int = 32, seed: int = 1) -> PIL.Image.Image:
    """Returns a random mask of black and white in mode L."""
    values = (numpy.random.RandomState(seed).rand(height, width) > 0.5) * 255
    return PIL.Image.fromarray(values.astype("uint8"))


@functools.cache
def clip_tokenizer() -> transformers.CLIPTokenizer:
    """Returns a CLIP tokenizer that knows letters and the words cat, dog and red."""
    letters = string.ascii_lowercase + string.digits + ".,!?'-"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    pairs = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>")]
    tokens += ["".join(pair) for pair in pairs]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = ["#version: 0.2", *(" ".join(pair) for pair in pairs), ""]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("\n".join(merges))
        (folder / "tokenizer_config.json").write_text('{"model_max_length": 77}')
        return transformers.CLIPTokenizer.from_pretrained(name, model_max_length=77)


def clip_text_config(hidden: int = 32, projection: int = 32) -> transformers.CLIPTextConfig:
    """Returns the configuration of a text encoder of three layers."""
    tokenizer = clip_tokenizer()
    return transformers.CLIPTextConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        hidden_size=hidden,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        pad_token_id=1,
        vocab_size=1000,
        projection_dim=projection,
        hidden_act="gelu",
    )


def clip_text() -> transformers.CLIPTextModel:
    """Returns a text encoder with 32 channels."""
    seeded()
    return frozen(transformers.CLIPTextModel(clip_text_config()))


def clip_text_with_projection() -> transformers.CLIPTextModelWithProjection:
    """Returns a text encoder with 32 channels and a pooled output of 32."""
    seeded()
    return frozen(transformers.CLIPTextModelWithProjection(clip_text_config()))


def kl_vae(
    latent_channels: int = 4, blocks: tuple[int, ...] = (8, 16), **config: object
) -> diffusers.AutoencoderKL:
    """Returns an autoencoder that halves the size once for each block after the first."""
    seeded()
    vae = diffusers.AutoencoderKL(
        block_out_channels=blocks,
        in_channels=3,
        out_channels=3,
        latent_channels=latent_channels,
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * len(blocks),
        up_block_types=("UpDecoderBlock2D",) * len(blocks),
        layers_per_block=1,
        sample_size=32,
        **config,
    )
    return frozen(vae)


def flux_vae() -> diffusers.AutoencoderKL:
    """Returns an autoencoder with the shift and scale of Flux."""
    return kl_vae(
        shift_factor=0.0609,
        scaling_factor=1.5035,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def wan_vae() -> diffusers.AutoencoderKLWan:
    """Returns a video autoencoder, of the kind that keeps state on itself."""
    seeded()
    vae = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    return frozen(vae)


def sd_unet(seed: int = 0, **config: object) -> diffusers.UNet2DConditionModel:
    """Returns the denoiser of the Stable Diffusion family, with two levels."""
    seeded(seed)
    defaults: dict[str, object] = {
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "norm_num_groups": 2,
        "attention_head_dim": 2,
    }
    return frozen(diffusers.UNet2DConditionModel(**(defaults | config)))

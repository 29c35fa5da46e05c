# diffusers' and transformers' annotations refuse what their classes take, such as None for a
# safety checker or the values of a configuration.
# pyright: reportArgumentType=false
"""Train the autoencoder of the demo model on drawn scenes."""

import logging
import random

import diffusers
import numpy
import torch

from kubediffusion_worker.demo import parts, render, scene, schedule

logger = logging.getLogger(__name__)

SIDE = 192
"""The side of a picture in pixels."""
CROP = 64
"""The side of the crops that most of the training looks at, in pixels."""
BATCH = 16
LEARNING_RATE = 2e-3
KL_WEIGHT = 3e-5
"""Keeps the latents near a normal distribution; small, since sharp edges matter more."""
WHOLE_SHARE = 0.15
"""The last share of the steps, which looks at whole pictures."""


def new_autoencoder() -> parts.Part:
    """Build the untrained autoencoder: 8 x 8 pixels to one latent of 4 channels."""
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIDE,
    )


def train_autoencoder(steps: int, *, seed: int) -> parts.Part:
    """Train an autoencoder and set its scaling factor so that latents have deviation 1."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    vae = new_autoencoder()
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=LEARNING_RATE, weight_decay=1e-4, fused=True
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.warmup_cosine(steps))
    for step in range(steps):
        whole = step >= steps * (1 - WHOLE_SHARE)
        loss = _loss(vae, _batch(rng, whole=whole))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        rate.step()
        if step % 100 == 0:
            logger.info("autoencoder", extra={"step": step, "loss": round(loss.item(), 5)})
    _set_scaling_factor(vae, rng)
    return vae.eval()


def encode(vae: parts.Part, pictures: torch.Tensor) -> torch.Tensor:
    """Encode pictures as the pipeline would.

    Args:
        vae: The trained autoencoder.
        pictures: float32, [batch, 3, height, width], -1 to 1.

    Returns:
        float32, [batch, 4, height/8, width/8], scaled to deviation 1.
    """
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mean = vae.encode(pictures).latent_dist.mean
    scaled: torch.Tensor = mean.float() * vae.config.scaling_factor
    return scaled


def as_tensor(pictures: list[render.Image]) -> torch.Tensor:
    """Stack uint8 pictures into float32, [batch, 3, height, width], -1 to 1."""
    stacked = torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1.0


def _loss(vae: parts.Part, pictures: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(pictures).latent_dist
        decoded = vae.decode(posterior.sample()).sample
    difference: torch.Tensor = decoded.float() - pictures
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = difference.abs().mean() + 2.0 * difference.square().mean()
    regular: torch.Tensor = KL_WEIGHT * kl
    return loss + regular


def _batch(rng: random.Random, *, whole: bool) -> torch.Tensor:
    count = BATCH // 4 if whole else BATCH
    layouts = [scene.place(scene.training_scene(rng), rng) for _ in range(count)]
    pictures = [render.render(layout, height=SIDE, width=SIDE) for layout in layouts]
    if not whole:
        pictures = [
            _crop(picture, layout, rng) for picture, layout in zip(pictures, layouts, strict=True)
        ]
    return as_tensor(pictures)


def _crop(picture: render.Image, layout: scene.Layout, rng: random.Random) -> render.Image:
    """Cut out a piece around one thing, where the edges are."""
    placed = rng.choice(layout.placed)
    left, top = (
        min(max(int(centre * SIDE + rng.uniform(-56, 56)) - CROP // 2, 0), SIDE - CROP)
        for centre in (placed.x, placed.y)
    )
    return picture[top : top + CROP, left : left + CROP]


def _set_scaling_factor(vae: parts.Part, rng: random.Random) -> None:
    vae.register_to_config(scaling_factor=1.0)
    latents = torch.cat([encode(vae, _batch(rng, whole=True)) for _ in range(32)])
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 5))

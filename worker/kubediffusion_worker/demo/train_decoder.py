# diffusers' and transformers' annotations refuse what their classes take, such as None for a
# safety checker or the values of a configuration.
# pyright: reportArgumentType=false
"""Train the decoder of the demo model further, on latents that are slightly off.

The encoder stays as it is, so that latents keep their meaning. The decoder learns to draw flat
colours and clean edges even from the small errors that a denoiser leaves.
"""

import dataclasses
import logging
import random

import torch

from kubediffusion_worker.demo import parts, render, scene, schedule, train_vae

logger = logging.getLogger(__name__)

BATCH = 12
LEARNING_RATE = 1e-3
NOISE = 0.12
"""The largest error of the latents, as a share of their deviation."""
PIECE = 10
"""The side of the pieces that most of the training looks at, in latents."""
MARGIN = 8
"""The outermost pixels of a piece, which do not count since they lack their surroundings."""
POOL, FRESH = 256, 2
"""Pictures drawn before the first step, and by each step."""
WHOLE_SHARE = 0.2
"""The last share of the steps, which looks at whole pictures."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Example:
    """A picture, and where in it the edges are."""

    picture: torch.Tensor
    """float32, [3, height, width], -1 to 1."""
    latents: torch.Tensor
    """float32, [4, height/8, width/8], scaled to deviation 1."""
    layout: scene.Layout


def train_decoder(vae: parts.Part, steps: int, *, seed: int) -> None:
    """Train the decoder of the autoencoder in place."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    weights = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.warmup_cosine(steps))
    pool = _examples(vae, POOL, rng)
    for step in range(steps):
        pool += _examples(vae, FRESH, rng)
        loss = _loss(vae, pool, rng, whole=step >= steps * (1 - WHOLE_SHARE))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        rate.step()
        if step % 100 == 0:
            logger.info("decoder", extra={"step": step, "loss": round(loss.item(), 5)})
    vae.eval()


def _examples(vae: parts.Part, count: int, rng: random.Random) -> list[Example]:
    layouts = [scene.place(scene.training_scene(rng), rng) for _ in range(count)]
    side = train_vae.SIDE
    pictures = train_vae.as_tensor(
        [render.render(layout, height=side, width=side) for layout in layouts]
    )
    latents = torch.cat([train_vae.encode(vae, part) for part in pictures.split(16)])
    return [
        Example(picture=picture, latents=latent, layout=layout)
        for picture, latent, layout in zip(pictures, latents, layouts, strict=True)
    ]


def _loss(
    vae: parts.Part, pool: list[Example], rng: random.Random, *, whole: bool
) -> torch.Tensor:
    if whole:
        chosen = rng.choices(pool, k=BATCH // 4)
        pairs, margin = [(one.latents, one.picture) for one in chosen], 0
    else:
        pairs = [_piece(one, rng) for one in rng.choices(pool, k=BATCH)]
        margin = MARGIN
    latents, pictures = (torch.stack(column) for column in zip(*pairs, strict=True))
    noise = torch.rand(len(latents), 1, 1, 1) * NOISE * torch.randn_like(latents)
    with torch.autocast("cpu", torch.bfloat16):
        decoded = vae.decode((latents + noise) / vae.config.scaling_factor).sample
    inner = slice(margin, pictures.shape[-1] - margin)
    difference: torch.Tensor = (decoded.float() - pictures)[..., inner, inner]
    return difference.abs().mean() + difference.square().mean()


def _piece(example: Example, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the same piece out of latents and picture, around one thing."""
    placed = rng.choice(example.layout.placed)
    size = example.latents.shape[-1]
    left, top = (
        min(max(int(centre * size + rng.uniform(-6, 6)) - PIECE // 2, 0), size - PIECE)
        for centre in (placed.x, placed.y)
    )
    latents = example.latents[:, top : top + PIECE, left : left + PIECE]
    pixels = [slice(8 * start, 8 * (start + PIECE)) for start in (top, left)]
    return latents, example.picture[:, pixels[0], pixels[1]]

# diffusers' and transformers' annotations refuse what their classes take, such as None for a
# safety checker or the values of a configuration.
# pyright: reportArgumentType=false
"""Train the denoiser of the demo model, together with its text encoder.

Most of what has to be learnt does not depend on the resolution, so the training starts on small
pictures, which cost a quarter, and ends on pictures of full size.
"""

import dataclasses
import logging
import random
from collections.abc import Iterator

import diffusers
import torch
from torch.nn import attention

from kubediffusion_worker.demo import parts, render, scene, schedule, text, train_vae

logger = logging.getLogger(__name__)

SMALL_SIDE = train_vae.SIDE // 2
"""The side of the pictures in the first part of the training, in pixels."""
BATCH = 32
LEARNING_RATE = 1e-3
TEXT_RATE = 0.2
"""The learning rate of the text encoder, as a share of that of the denoiser."""
EMPTY_SHARE = 0.1
"""The share of prompts that are left empty, for classifier-free guidance (arXiv:2207.12598)."""
AVERAGE_DECAY = 0.995
"""How slowly the averaged weights, which are the ones that ship, follow the trained ones."""
DECIDED_STEP = 600
"""The step of the noise by which colours and places are settled."""
SETTLING_SHARE = 0.7
"""The share of the batch that is spent on less noise than that."""
POOL = 1024
"""Pictures drawn before the first step of each part."""
FRESH = 4
"""Pictures that each step adds to the pool."""

REPORT_STEPS = 100

NOISE_STEPS = 1000

NOISE: dict[str, object] = {
    "num_train_timesteps": NOISE_STEPS,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "v_prediction",
}
"""The noise: it ends at next to no signal, so that sampling can start from pure noise."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Pool:
    """Encoded pictures that a step can draw from."""

    latents: torch.Tensor
    """float32, [pictures, 4, side/8, side/8]."""
    ids: torch.Tensor
    """int64, [pictures, text.LENGTH]."""

    def grow(self, other: "Pool") -> None:
        """Take in the pictures of another pool of the same side."""
        self.latents = torch.cat([self.latents, other.latents])
        self.ids = torch.cat([self.ids, other.ids])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the training uses but does not change."""

    vae: parts.Part
    tokenizer: parts.Part
    rng: random.Random

    def draw(self, count: int, *, side: int) -> Pool:
        """Draw, encode and tokenize new pictures that are not held out."""
        scenes = [scene.training_scene(self.rng) for _ in range(count)]
        pictures = [
            render.render(scene.place(one, self.rng), height=side, width=side) for one in scenes
        ]
        return Pool(
            latents=train_vae.encode(self.vae, train_vae.as_tensor(pictures)),
            ids=text.token_ids(self.tokenizer, [scene.prompt_of(one) for one in scenes]),
        )


def new_denoiser(*, seed: int) -> parts.Part:
    """Build the untrained denoiser."""
    torch.manual_seed(seed)
    return diffusers.UNet2DConditionModel(
        sample_size=train_vae.SIDE // 8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 80, 96),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=text.WIDTH,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
        resnet_time_scale_shift="scale_shift",
    )


def train_denoiser(
    tools: Tools, models: torch.nn.ModuleDict, steps: int, *, side: int, seed: int
) -> torch.nn.ModuleDict:
    """Train on pictures of one size and return the averaged models.

    Args:
        tools: The trained autoencoder and the words.
        models: The denoiser as "unet" and the text encoder as "text"; trained in place.
        steps: Batches to train on.
        side: The side of the pictures in pixels.
        seed: Equal seeds give equal weights.
    """
    torch.manual_seed(seed)
    average = torch.optim.swa_utils.AveragedModel(
        models.train(), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE_DECAY)
    )
    optimizer, rate = _optimizer(models, steps)
    losses = []
    for step, batch in enumerate(_batches(tools, side, steps), start=1):
        loss = _loss(models, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimizer.step()
        rate.step()
        average.update_parameters(models)
        losses.append(loss.item())
        if step % REPORT_STEPS == 0:
            mean = round(sum(losses[-REPORT_STEPS:]) / len(losses[-REPORT_STEPS:]), 5)
            logger.info("denoiser", extra={"step": step, "loss": mean, "side": side})
    averaged = average.module
    assert isinstance(averaged, torch.nn.ModuleDict)
    return averaged


def _optimizer(
    models: torch.nn.ModuleDict, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    groups = [
        {"params": list(models["unet"].parameters()), "lr": LEARNING_RATE},
        {"params": list(models["text"].parameters()), "lr": LEARNING_RATE * TEXT_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.warmup_cosine(steps))


def _batches(tools: Tools, side: int, steps: int) -> Iterator[Pool]:
    pool = tools.draw(POOL, side=side)
    empty = text.token_ids(tools.tokenizer, [""])
    for _ in range(steps):
        pool.grow(tools.draw(FRESH, side=side))
        chosen = torch.randint(len(pool.ids), (BATCH,))
        dropped = torch.rand(BATCH, 1) < EMPTY_SHARE
        ids = torch.where(dropped, empty, pool.ids[chosen])
        yield Pool(latents=pool.latents[chosen], ids=ids)


def _loss(models: torch.nn.ModuleDict, batch: Pool) -> torch.Tensor:
    """Predict the velocity (arXiv:2202.00512) of latents at a random step of the noise."""
    scheduler: parts.Part = diffusers.DDPMScheduler(**NOISE)
    noise = torch.randn_like(batch.latents)
    steps = _noise_steps(len(noise))
    noisy = scheduler.add_noise(batch.latents, noise, steps)
    target = scheduler.get_velocity(batch.latents, noise, steps)
    # The flash attention of torch is slow backwards on CPUs for heads as small as these.
    with (
        torch.autocast("cpu", torch.bfloat16),
        attention.sdpa_kernel(attention.SDPBackend.MATH),
    ):
        embeddings = models["text"](batch.ids).last_hidden_state
        predicted = models["unet"](noisy, steps, embeddings).sample
    return torch.nn.functional.mse_loss(predicted.float(), target)


def _noise_steps(count: int) -> torch.Tensor:
    """Draw mostly the steps at which shapes are settled, few at which next to all is noise."""
    whole = NOISE_STEPS * torch.rand(count)
    early = DECIDED_STEP * torch.rand(count)
    return torch.where(torch.rand(count) < SETTLING_SHARE, early, whole).long()

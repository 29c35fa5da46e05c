# diffusers' and transformers' annotations refuse what their classes take, such as None for a
# safety checker or the values of a configuration.
# pyright: reportArgumentType=false
"""Train the demo model from nothing: `python -m kubediffusion_worker.demo.train --output DIR`.

By its measured steps it takes 53 to 59 minutes of one thread of a CPU with bfloat16 matrix
instructions (AMX). It has not been run with these numbers of steps in one piece: the weights that
ship were trained by it in several, see `model/README.md`. Fewer steps do not do: a run in one
piece with 1100, 500, 1300, 1500 and 1600 of them, in the order of `Steps`, took 45 minutes, and
55 of 200 held-out prompts were drawn right.
"""

import argparse
import copy
import dataclasses
import json
import logging
import pathlib
import random
import time

import diffusers
import torch

from kubediffusion_worker.demo import parts, text, train_decoder, train_denoiser, train_vae

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How long each part of the training takes."""

    autoencoder: int = 1800
    text_encoder: int = 600
    decoder: int = 1800
    small: int = 1600
    """Steps of the denoiser on small pictures."""
    whole: int = 2000
    """Steps of the denoiser on pictures of full size."""

    def scaled(self, share: float) -> "Steps":
        """Return a shorter or a longer training, at least one report long."""
        return Steps(
            **{
                name: max(100, round(share * steps))
                for name, steps in dataclasses.asdict(self).items()
            }
        )


def train(steps: Steps, *, seed: int) -> parts.Part:
    """Train every part and return the pipeline; equal seeds give equal weights."""
    tokenizer = text.new_tokenizer()
    vae = train_vae.train_autoencoder(steps.autoencoder, seed=seed)
    text_encoder = text.train_text_encoder(tokenizer, steps.text_encoder, seed=seed)
    tools = train_denoiser.Tools(vae=vae, tokenizer=tokenizer, rng=random.Random(seed))
    unet = train_denoiser.new_denoiser(seed=seed)
    models = torch.nn.ModuleDict({"unet": unet, "text": text_encoder})
    models = train_denoiser.train_denoiser(
        tools, models, steps.small, side=train_denoiser.SMALL_SIDE, seed=seed
    )
    models = train_denoiser.train_denoiser(
        tools, models, steps.whole, side=train_vae.SIDE, seed=seed
    )
    train_decoder.train_decoder(vae, steps.decoder, seed=seed)
    return assemble(vae, tokenizer, models["text"], models["unet"])


def assemble(
    vae: parts.Part,
    tokenizer: parts.Part,
    text_encoder: parts.Part,
    denoiser: parts.Part,
) -> parts.Part:
    """Put the trained parts together with a deterministic scheduler."""
    return diffusers.StableDiffusionPipeline(
        vae=vae.eval(),
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        unet=denoiser.eval(),
        scheduler=diffusers.DDIMScheduler(
            **train_denoiser.NOISE,
            timestep_spacing="trailing",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipeline: parts.Part, folder: pathlib.Path) -> None:
    """Write the pipeline with weights of 16 bits, which `from_pretrained` widens again."""
    for name in ("unet", "vae", "text_encoder"):
        part = copy.deepcopy(getattr(pipeline, name)).half()
        part.save_pretrained(folder / name, safe_serialization=True)
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.save_config(folder)
    _widen_by_default(folder / "text_encoder" / "config.json")


def _widen_by_default(path: pathlib.Path) -> None:
    """Let transformers load 32 bits by default, as diffusers does for the other parts."""
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def _log_with_facts(record: logging.LogRecord) -> bool:
    """Show the facts of a training report in its line, and what the training has cost."""
    shown = ("side", "step", "loss", "seconds")
    facts = {name: value for name, value in vars(record).items() if name in shown}
    facts["cpu_seconds"] = round(time.process_time())
    record.facts = " ".join(f"{name} {value}" for name, value in facts.items())
    return True


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="share of the usual steps")
    return parser.parse_args()


def main() -> None:
    """Train the demo model and write it."""
    arguments = _parsed()
    handler = logging.StreamHandler()
    handler.addFilter(_log_with_facts)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s %(facts)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    save(train(Steps().scaled(arguments.share), seed=arguments.seed), arguments.output)
    logger.info("done", extra={"seconds": round(time.monotonic() - started)})


if __name__ == "__main__":
    main()

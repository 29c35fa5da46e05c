# diffusers' and transformers' annotations refuse what their classes take, such as None for a
# safety checker or the values of a configuration.
# pyright: reportArgumentType=false
"""The words of the demo model: a tokenizer with one token a word, and a small text encoder.

The text encoder is trained first, on its own, to tell from a prompt what is where. The denoiser
then finds "the left one is a red star" ready-made in the embeddings, instead of having to learn
grammar from pictures, which takes far longer.
"""

import logging
import random

import tokenizers
import torch
import transformers

from kubediffusion_worker.demo import parts, scene, schedule

logger = logging.getLogger(__name__)

WIDTH = 128
"""The width of an embedding."""
LENGTH = 24
"""Tokens in a prompt; the longest sentence about a scene has 16 with its two ends."""
BATCH = 128
LEARNING_RATE = 1e-3

_START, _END, _UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
_PLACES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""Where a thing can be: alone in the middle, or on one of four sides."""
_QUESTIONS = (len(scene.Colour), *(len(scene.Colour) + 1, len(scene.Shape) + 1) * len(_PLACES))
"""How many answers there are for the background, and for colour and shape at each place."""


def new_tokenizer() -> parts.Part:
    """Build the tokenizer: every word of the demo is one token, any other letter is unknown."""
    tokenizer = transformers.CLIPTokenizer(
        vocab={_START: 0, _END: 1, _UNKNOWN: 2},
        merges=[],
        unk_token=_UNKNOWN,
        bos_token=_START,
        eos_token=_END,
        pad_token=_END,
        model_max_length=LENGTH,
    )
    tokenizer.add_tokens(
        [tokenizers.AddedToken(word, single_word=True, normalized=True) for word in _words()]
    )
    return tokenizer


def new_text_encoder(tokenizer: parts.Part) -> parts.Part:
    """Build the untrained text encoder for the tokens of the tokenizer."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.CLIPTextModel(config)


def token_ids(tokenizer: parts.Part, prompts: list[str]) -> torch.Tensor:
    """Tokenize as the pipeline does: int64, [batch, LENGTH]."""
    ids: torch.Tensor = tokenizer(
        prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def train_text_encoder(tokenizer: parts.Part, steps: int, *, seed: int) -> parts.Part:
    """Train a text encoder whose embeddings, from the end of the sentence on, tell the scene."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    encoder = new_text_encoder(tokenizer)
    head = torch.nn.Linear(WIDTH, sum(_QUESTIONS))
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-2, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.warmup_cosine(steps))
    for step in range(steps):
        scenes = [scene.training_scene(rng) for _ in range(BATCH)]
        loss = _loss(encoder, head, token_ids(tokenizer, _prompts(scenes)), _answers(scenes))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        rate.step()
        if step % 100 == 0:
            logger.info("text encoder", extra={"step": step, "loss": round(loss.item(), 5)})
    return encoder.eval()


def _loss(
    encoder: parts.Part,
    head: torch.nn.Linear,
    ids: torch.Tensor,
    answers: torch.Tensor,
) -> torch.Tensor:
    """Ask every token from the end of the sentence on what the scene is."""
    logits = head(encoder(ids).last_hidden_state[ids == encoder.config.eos_token_id])
    wanted = answers.repeat_interleave((ids == encoder.config.eos_token_id).sum(1), dim=0)
    parts = logits.split(_QUESTIONS, dim=-1)
    losses = [
        torch.nn.functional.cross_entropy(part, column)
        for part, column in zip(parts, wanted.unbind(-1), strict=True)
    ]
    return torch.stack(losses).mean()


def _answers(scenes: list[scene.Scene]) -> torch.Tensor:
    return torch.tensor([_answer(one) for one in scenes])


def _answer(one: scene.Scene) -> list[int]:
    colours, shapes = list(scene.Colour), list(scene.Shape)
    there = dict(zip(_places_of(one), one.things, strict=True))
    answer = [colours.index(one.visible_background)]
    for place in _PLACES:
        thing = there.get(place)
        answer.append(0 if thing is None else 1 + colours.index(thing.colour))
        answer.append(0 if thing is None else 1 + shapes.index(thing.shape))
    return answer


def _places_of(one: scene.Scene) -> list[tuple[int, int]]:
    if one.relation is None:
        return [(0, 0)]
    x, y = scene.DIRECTION[one.relation]
    return [(x, y), (-x, -y)]


def _prompts(scenes: list[scene.Scene]) -> list[str]:
    return [scene.prompt_of(one) for one in scenes]


def _words() -> list[str]:
    """List the vocabulary, in a settled order."""
    relations = " ".join(scene.Relation).split()
    return list(
        dict.fromkeys(
            ["a", "an", "the", "on", "background", *relations, *scene.Colour, *scene.Shape]
        )
    )

"""The engine process that the demo kills, and the one that takes over: the same program.

It knows nothing of the demo: it reads what is wanted, attaches to what its engine id has
already, submits the rest, saves what arrives, and says so in lines of JSON.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import sys
import threading
import time

import kubediffusion
from kubediffusion import errors
from kubediffusion.cli import news, requests
from kubediffusion.cli.demo import script


def main() -> None:
    """Do the task on the first line of standard input, whose end is also ours."""
    task = script.read_task(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    wanted = [item for item in task.items if not pathlib.Path(item.path).exists()]
    asyncio.run(_work(task, wanted))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


async def _work(task: script.Task, wanted: list[script.Item]) -> None:
    config = kubediffusion.OmniDiffusionConfig(
        engine_id=task.engine_id,
        state_dir=task.state_dir,
        distributed_executor_backend="external_launcher",
        discovery="registry",
        registry=task.registry,
    )
    async with kubediffusion.AsyncDiffusionEngine(config) as engine:
        await asyncio.gather(*(_obtain(engine, task, item) for item in wanted))


async def _obtain(
    engine: kubediffusion.AsyncDiffusionEngine, task: script.Task, item: script.Item
) -> None:
    try:
        generation = await engine.generation(item.request_id)
    except errors.GenerationNotFoundError:
        generation = await engine.submit(
            kubediffusion.OmniDiffusionRequest(
                request_id=item.request_id,
                prompt=item.prompt,
                seed=item.seed,
                num_inference_steps=task.steps,
                guidance_scale=requests.DEMO_GUIDANCE_SCALE,
                encoding="png",
            )
        )
    async for event in generation:
        if event.output is not None:
            _save(item, event.output.files[0])
        _say(event)


def _save(item: script.Item, picture: bytes) -> None:
    # Whole or not at all: this process may be killed at any moment.
    path = pathlib.Path(item.path)
    part = path.with_suffix(".part")
    part.write_bytes(picture)
    part.replace(path)


def _say(event: kubediffusion.GenerationEvent) -> None:
    item = news.of_engine(event)
    word = script.Word(
        request_id=item.request_id,
        kind=item.kind.value,
        moment=time.monotonic(),
        step=item.step,
        total=item.total,
        worker=event.worker,
        detail=item.detail,
        event=event.kind,
        exactness=event.exactness,
    )
    sys.stdout.write(word.dumps() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

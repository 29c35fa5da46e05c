"""Runs an order through an engine: submits, shows progress, saves, cancels on the way out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Sequence

import kubediffusion
from kubediffusion.cli import (
    displays,
    files,
    fleet,
    news,
    observer,
    options,
    order,
    patience,
    requests,
    saving,
    text,
)
from kubediffusion_wire import errors

_CANCEL_SECONDS = 5.0
"""In seconds, on the way out; workers confirm a cancel within a step."""


async def run(
    given: order.Order,
    reach: options.Reach,
    display: displays.Display,
    *,
    timeout: float | None,
) -> list[order.Outcome]:
    """Run an order, and answer what came of each prompt.

    Raises:
        kubediffusion_wire.errors.KubediffusionError: A request was refused, or there is no
            worker; what was submitted is cancelled.
        TimeoutError: It took too long; likewise.
    """
    if given.backend == "external":
        display.say(await _describe_workers(given, reach))
    else:
        count = text.count(given.num_workers, "worker")
        display.say(f"Starting {count} of our own with {given.model or 'demo'} …")
    engine = kubediffusion.AsyncDiffusionEngine(config(given, reach))
    try:
        async with patience.at_most(timeout, "not done, and cancelled"):
            return await _run_all(engine, given, display)
    finally:
        # Not `async with`: an interrupt while the engine starts has to close it too.
        await engine.close()


def config(given: order.Order, reach: options.Reach) -> kubediffusion.OmniDiffusionConfig:
    """Answer the engine's configuration."""
    if given.backend != "external":
        return kubediffusion.OmniDiffusionConfig(
            model=given.model or "demo",
            engine_id=given.engine_id,
            distributed_executor_backend=given.backend,
            num_gpus=given.num_workers,
        )
    return kubediffusion.OmniDiffusionConfig(
        model=given.model or "",
        engine_id=given.engine_id,
        distributed_executor_backend="external_launcher",
        workers=reach.addresses,
        registry=reach.registry,
        tls=fleet.tls(reach),
        insecure=reach.is_insecure,
    )


async def _describe_workers(given: order.Order, reach: options.Reach) -> str:
    """Say which workers will be used.

    Raises:
        kubediffusion_wire.errors.NoWorkerError: None of them serves the model.
    """
    async with fleet.connect(reach, fleet.some_endpoints(reach)) as links:
        views = await asyncio.gather(*(observer.describe(x, now=time.time()) for x in links))
    fitting = [v for v in views if v.state in ("STARTING", "SERVING")]
    if given.model:
        fitting = [v for v in fitting if v.model == given.model]
    if not fitting:
        states = ", ".join(f"{v.name} ({v.state.lower()}, {v.model or 'no model'})" for v in views)
        raise errors.NoWorkerError(f"no worker serves {given.model or 'now'}: {states}")
    return f"Using {', '.join(f'{v.name} ({v.model} on {v.device})' for v in fitting)}."


async def _run_all(
    engine: kubediffusion.AsyncDiffusionEngine, given: order.Order, display: displays.Display
) -> list[order.Outcome]:
    generations: list[kubediffusion.AsyncGeneration] = []
    paths = files.names(given.output, given.num_files, given.format_name)
    each = len(paths) // len(given.prompts)
    wanted = requests.for_models(given.wanted, [each.model for each in await engine.workers()])
    try:
        for name, prompt in zip(given.request_ids, given.prompts, strict=True):
            request = kubediffusion.OmniDiffusionRequest(
                prompt=prompt, request_id=name, **wanted.fields()
            )
            generations.append(await engine.submit(request))
        if given.is_detached:
            return await asyncio.gather(*(_accepted(g, display) for g in generations))
        return await asyncio.gather(
            *(
                _finished(generation, display, paths[i * each : (i + 1) * each], given.format_name)
                for i, generation in enumerate(generations)
            )
        )
    except BaseException:
        await _cancel(generations, display)
        raise


async def _accepted(
    generation: kubediffusion.AsyncGeneration, display: displays.Display
) -> order.Outcome:
    """Wait until a worker has it; from then on it needs no engine."""
    async for event in generation:
        display.show(news.of_engine(event))
        if event.worker:
            return order.Outcome(
                request_id=generation.request_id, worker=event.worker, is_detached=True
            )
    return order.Outcome(request_id=generation.request_id, is_detached=True)


async def _finished(
    generation: kubediffusion.AsyncGeneration,
    display: displays.Display,
    paths: Sequence[pathlib.Path],
    format_name: str,
) -> order.Outcome:
    """Show progress to the end and save what comes; a failure is an outcome too."""
    outcome = order.Outcome(request_id=generation.request_id)
    async for event in generation:
        item = news.of_engine(event)
        if event.output is not None:
            outcome = await asyncio.to_thread(_save, event.output, paths, format_name)
            detail = f"done in {text.seconds(outcome.seconds)} on {outcome.worker}"
            item = dataclasses.replace(item, detail=detail)
        elif event.error is not None:
            outcome = dataclasses.replace(outcome, worker=event.worker, error=event.error)
            item = dataclasses.replace(item, detail="")  # The error is told at the end.
        display.show(item)
    return outcome


def _save(
    output: kubediffusion.OmniRequestOutput, paths: Sequence[pathlib.Path], format_name: str
) -> order.Outcome:
    saved = saving.save_request_output(output, paths, format_name)
    return order.Outcome(
        request_id=output.request_id,
        paths=tuple(path for group in saved for path in group),
        seeds=tuple(seed for group, seed in zip(saved, output.seeds, strict=False) for _ in group),
        seconds=output.metrics.get("compute_seconds", 0.0),
        worker=output.worker,
    )


async def _cancel(
    generations: Sequence[kubediffusion.AsyncGeneration], display: displays.Display
) -> None:
    """Cancel what was submitted and wait for that; bounded, because somebody wants to leave."""
    left = [_cancelled(g, display) for g in generations if not g.done]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CANCEL_SECONDS):
            await asyncio.gather(*left, return_exceptions=True)


async def _cancelled(generation: kubediffusion.AsyncGeneration, display: displays.Display) -> None:
    await generation.cancel()
    async for event in generation:
        if event.is_terminal:
            display.show(dataclasses.replace(news.of_engine(event), detail=""))

"""Checkpoints of a real pipeline, by the calls of the wire."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

import zoo
import zoo_requests
from callers import Client
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import config, pipeline, runtime, testing

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

NAME = "sd15"
STEPS = 60
"""Enough to be in the middle of them when a drain begins."""


@contextlib.asynccontextmanager
async def a_worker() -> AsyncIterator[Client]:
    settings = config.WorkerConfig(model=testing.FAKE_MODEL, checkpoint_seconds=None)
    worker = runtime.WorkerRuntime(
        settings, load=lambda: pipeline.SharedPipeline.from_pipeline(zoo.build(NAME).pipeline)
    )
    await worker.start()
    try:
        await worker.serving()
        yield Client(worker)
    finally:
        await worker.close(0.0)


def test_a_drained_generation_goes_on_elsewhere_to_the_same_bits() -> None:
    async def story() -> None:
        async with a_worker() as first, a_worker() as second:
            spec = zoo_requests.spec_of(zoo.shared(NAME), steps=STEPS, seed=3)
            await second.submit("plain", spec=spec)
            plain = await second.result("plain")
            await first.submit("a", spec=spec)
            await first.until("progress", "a", step=2)
            await first.drain(60.0, "CHECKPOINT")
            end = (await first.end("a")).handed_over.checkpoint
            assert 1 < end.step < STEPS
            info, data = await first.fetch_checkpoint("a")
            assert info == end
            reference = await second.import_checkpoint(info, data, "a")
            await second.submit(
                "a", attempt=2, spec=spec, reference=reference, min_exactness="EXACT"
            )
            assert await second.result("a") == plain
            header, _ = await second.fetch("a")
            assert header.exactness == worker_pb2.EXACTNESS_EXACT
            assert header.resumed_from == end.step

    asyncio.run(story())

"""Links to the real worker program, with a pipeline that has no model."""

import asyncio
import os
import pathlib
import signal
from typing import Any

import pytest

import scripted_executor
from kubediffusion import _loop
from kubediffusion._links import protocol
from kubediffusion.executors import external
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, values

PATIENCE = scripted_executor.PATIENCE
ENGINE = worker_pb2.Caller(engine_id="e", epoch=1, instance="i", role=worker_pb2.ROLE_ENGINE)


def submission(request_id: str, **extra: Any) -> worker_pb2.SubmitGenerationRequest:
    spec = worker_pb2.GenerationSpec(prompt="p")
    for name, value in extra.items():
        spec.extra_args[name].CopyFrom(values.encode(value))
    return worker_pb2.SubmitGenerationRequest(
        caller=ENGINE, request_id=request_id, attempt=1, spec=spec
    )


async def last_event(link: protocol.WorkerLink, request_id: str) -> str:
    watch = worker_pb2.WatchGenerationsRequest(
        caller=ENGINE, request_ids=[request_id], until_terminal=True
    )
    async with asyncio.timeout(PATIENCE):
        kinds = [
            event.WhichOneof("event") or ""
            async for response in link.watch_generations(watch)
            for event in response.events
        ]
    return kinds[-1]


async def generate(
    link: protocol.WorkerLink, request_id: str, **extra: Any
) -> tuple[protocol.FetchedResult, bool]:
    """Returns a result, and whether acknowledging it released it."""
    await link.submit_generation(submission(request_id, **extra))
    assert await last_event(link, request_id) == "succeeded"
    result = await link.fetch_result("e", request_id)
    ack = worker_pb2.AckGenerationRequest(caller=ENGINE, request_id=request_id)
    return result, (await link.ack_generation(ack)).is_released


def test_a_large_result_comes_whole_from_a_child_process() -> None:
    executor = scripted_executor.FakeExecutor(scripted_executor.config("fake"))
    with scripted_executor.started(executor):
        (link,) = scripted_executor.wait_for_links(executor)
        loop = _loop.EngineLoop()
        result, is_released = loop.run(generate(link, "r", size=5_000_000), PATIENCE)
        loop.close()
        assert len(result.data) == result.header.size == 5_000_000
        assert is_released


def test_a_cancel_goes_through_the_link(tmp_path: pathlib.Path) -> None:
    async def scenario(link: protocol.WorkerLink) -> str:
        await link.submit_generation(submission("r", wait_for=str(tmp_path / "never")))
        cancel = worker_pb2.CancelGenerationRequest(caller=ENGINE, request_id="r")
        await link.cancel_generation(cancel)
        return await last_event(link, "r")

    executor = scripted_executor.FakeExecutor(scripted_executor.config("fake"))
    with scripted_executor.started(executor):
        (link,) = scripted_executor.wait_for_links(executor)
        loop = _loop.EngineLoop()
        assert loop.run(scenario(link), PATIENCE) == "cancelled"
        loop.close()


def test_a_killed_worker_s_watch_ends_and_its_successor_serves(tmp_path: pathlib.Path) -> None:
    async def watch_until_gone(link: protocol.WorkerLink) -> None:
        await link.submit_generation(submission("r", wait_for=str(tmp_path / "never")))
        async for response in link.watch_generations(
            worker_pb2.WatchGenerationsRequest(caller=ENGINE)
        ):
            if any(event.WhichOneof("event") == "started" for event in response.events):
                answer = await link.get_worker()
                os.kill(answer.worker.process_id, signal.SIGKILL)

    executor = scripted_executor.FakeExecutor(scripted_executor.config("fake"))
    with scripted_executor.started(executor):
        (first,) = scripted_executor.wait_for_links(executor)
        loop = _loop.EngineLoop()
        with pytest.raises(errors.WorkerGoneError):
            loop.run(watch_until_gone(first), PATIENCE)
        (second,) = scripted_executor.wait_for_links(
            executor, lambda links: bool(links) and links[0] is not first
        )
        assert first.is_gone
        assert loop.run(generate(second, "r"), PATIENCE)[1]
        loop.close()


def test_the_same_pixels_through_every_executor() -> None:
    seeded = submission("r", size=1000)
    seeded.spec.seed = 42

    async def pixels(link: protocol.WorkerLink) -> bytes:
        await link.submit_generation(seeded)
        await last_event(link, "r")
        return bytes((await link.fetch_result("e", "r")).data)

    mp = scripted_executor.FakeExecutor(scripted_executor.config("fake"))
    with scripted_executor.started(mp):
        (link,) = scripted_executor.wait_for_links(mp)
        config = scripted_executor.config(workers=[link.address])
        outside = external.ExternalDiffusionExecutor(config)
        with scripted_executor.started(outside):
            (other,) = scripted_executor.wait_for_links(outside)
            loop = _loop.EngineLoop()
            assert loop.run(pixels(link), PATIENCE) == loop.run(pixels(other), PATIENCE)
            loop.close()

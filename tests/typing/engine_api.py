"""The public API as a type checker sees it: checked, never run."""

from collections.abc import Iterator
from typing import Any, assert_type

from kubediffusion import (
    AsyncDiffusionEngine,
    AsyncGeneration,
    CheckpointInfo,
    DiffusionEngine,
    DiffusionExecutor,
    Generation,
    GenerationEvent,
    GenerationState,
    OmniDiffusionConfig,
    OmniDiffusionRequest,
    OmniRequestOutput,
    Progress,
    WorkerFailure,
    WorkerInfo,
    errors,
)


class MyExecutor(DiffusionExecutor):
    """Does nothing."""

    def _init_executor(self) -> None:
        pass

    def add_requests(self, requests: Any) -> Any:
        return requests

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: Any = (),
        kwargs: Any = None,
        unique_reply_rank: int | None = None,
    ) -> Any:
        return None

    def check_health(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


def told(failure: WorkerFailure) -> None:
    assert_type(failure.worker, str)


def use_engine() -> None:
    config = OmniDiffusionConfig(model="demo", num_gpus=2)
    config.distributed_executor_backend = MyExecutor
    request = OmniDiffusionRequest("a cat", seed=1, guidance_scale=0.0)
    with DiffusionEngine(config) as engine:
        assert_type(engine.step(request), OmniRequestOutput)
        assert_type(engine.step("a cat"), OmniRequestOutput)
        assert_type(engine.step({"prompt": "a cat"}, timeout=5.0), OmniRequestOutput)
        assert_type(engine.step([request, "a cat"]), list[OmniRequestOutput])
        generation = engine.submit(request)
        assert_type(generation, Generation)
        assert_type(generation.result(timeout=1.0), OmniRequestOutput)
        assert_type(generation.events(), Iterator[GenerationEvent])
        assert_type(generation.state, GenerationState)
        assert_type(generation.progress, Progress | None)
        assert_type(generation.error, errors.KubediffusionError | None)
        for event in generation:
            assert_type(event, GenerationEvent)
            assert_type(event.output, OmniRequestOutput | None)
        generation.pause()
        generation.resume()
        assert_type(generation.checkpoint(), CheckpointInfo)
        assert_type(engine.checkpoint("id"), CheckpointInfo)
        assert_type(engine.drain("worker-0", policy="checkpoint", budget=5.0), str)
        assert_type(engine.undrain("worker-0"), str)
        assert_type(engine.generations(), list[Generation])
        assert_type(engine.workers(), list[WorkerInfo])
        assert_type(engine.executor, DiffusionExecutor)
        engine.register_failure_callback(told)
        engine.register_failure_callback(lambda: None)


async def use_async_engine() -> None:
    async with AsyncDiffusionEngine(model="demo") as engine:
        assert_type(await engine.step("a cat"), OmniRequestOutput)
        assert_type(await engine.step(["a cat"]), list[OmniRequestOutput])
        generation = await engine.submit("a cat")
        assert_type(generation, AsyncGeneration)
        assert_type(await generation.result(), OmniRequestOutput)
        async for event in generation:
            assert_type(event, GenerationEvent)
        await generation.pause()
        await generation.resume()
        assert_type(await generation.checkpoint(), CheckpointInfo)
        assert_type(await engine.checkpoint("id"), CheckpointInfo)
        assert_type(await engine.drain("worker-0"), str)
        assert_type(await engine.generation("id"), AsyncGeneration)

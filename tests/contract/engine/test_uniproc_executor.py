import queue
from collections.abc import Callable
from typing import Any

import pytest

import scripted_executor
from kubediffusion import _loop, errors
from kubediffusion._links import protocol
from kubediffusion.executors import failures, uniproc
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import model, testing

PATIENCE = scripted_executor.PATIENCE
ENGINE = worker_pb2.Caller(engine_id="e", epoch=1, instance="i", role=worker_pb2.ROLE_ENGINE)


class FakeExecutor(uniproc.UniProcDiffusionExecutor):
    """Has a pipeline without a model."""

    def _pipeline_loader(self) -> Callable[[], testing.FakePipeline]:
        return testing.FakePipeline


def executor(**options: Any) -> FakeExecutor:
    return FakeExecutor(scripted_executor.config("fake", **options))


async def generated(link: protocol.WorkerLink, **extra: str) -> tuple[str, protocol.FetchedResult]:
    """Runs a generation; returns the kind of its last event and its result."""
    request = worker_pb2.SubmitGenerationRequest(caller=ENGINE, request_id="r", attempt=1)
    for name, value in extra.items():
        request.spec.extra_args[name].text = value
    request.spec.prompt = "p"
    await link.submit_generation(request)
    watch = worker_pb2.WatchGenerationsRequest(
        caller=ENGINE, request_ids=["r"], until_terminal=True
    )
    kinds = [
        event.WhichOneof("event") or ""
        async for response in link.watch_generations(watch)
        for event in response.events
    ]
    return kinds[-1], await link.fetch_result("e", "r")


def test_a_worker_in_this_process_generates() -> None:
    uni = executor()
    with scripted_executor.started(uni):
        (link,) = scripted_executor.wait_for_links(uni)
        assert (link.name, link.address) == ("worker-0", "in-process")
        loop = _loop.EngineLoop()
        kind, result = loop.run(generated(link), PATIENCE)
        loop.close()
        assert kind == "succeeded"
        assert len(result.data) == result.header.size > 0
        uni.check_health()
        assert uni.collective_rpc("ping") == ["pong"]
        assert uni.collective_rpc("ping", unique_reply_rank=0) == "pong"


def test_more_than_one_worker_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="num_gpus must be 1"):
        executor(num_gpus=2)


def test_options_that_the_worker_refuses_fail_the_start() -> None:
    uni = executor(worker_options={"max_quued": 3})
    with pytest.raises(errors.ConfigError, match="refuses"), scripted_executor.started(uni):
        pass


def test_a_model_that_cannot_be_loaded_fails_the_start() -> None:
    def fail() -> testing.FakePipeline:
        raise model.ModelLoadError("NOT_FOUND", "there is no such folder")

    class Failing(FakeExecutor):
        def _pipeline_loader(self) -> Callable[[], testing.FakePipeline]:
            return fail

    uni = Failing(scripted_executor.config("none"))
    with (
        pytest.raises(errors.ModelLoadError, match="there is no such folder"),
        scripted_executor.started(uni),
    ):
        pass


def test_a_device_that_fails_is_reported_once() -> None:
    uni = executor()
    told: queue.SimpleQueue[failures.WorkerFailure] = queue.SimpleQueue()
    uni.register_failure_callback(told.put)
    with scripted_executor.started(uni):
        (link,) = scripted_executor.wait_for_links(uni)
        loop = _loop.EngineLoop()
        with pytest.raises(errors.KubediffusionError):
            loop.run(generated(link, raises="sticky"), PATIENCE)
        loop.close()
        failure = told.get(timeout=PATIENCE)
        assert (failure.worker, failure.is_replaced) == ("worker-0", False)
        assert link.is_gone
        with pytest.raises(errors.WorkerFailedError):
            uni.check_health()
    assert told.empty()


def test_shutdown_is_idempotent_and_ends_calls() -> None:
    uni = executor()
    with scripted_executor.started(uni):
        uni.check_health()
    uni.shutdown()
    with pytest.raises(errors.EngineClosedError):
        uni.check_health()

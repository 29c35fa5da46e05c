import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

import pytest
from google.protobuf import timestamp_pb2

from callers import PATIENCE, Client, names
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    conductor,
    config,
    fencing,
    invariants,
    lifecycle,
    model,
    runs,
    runtime,
    testing,
)

SETTINGS = config.WorkerConfig(model=testing.FAKE_MODEL, tick_seconds=0.01)


def tell(
    story: Callable[[runtime.WorkerRuntime, Client], Coroutine[None, None, None]],
    settings: config.WorkerConfig = SETTINGS,
    pipeline: testing.FakePipeline | None = None,
) -> None:
    async def told() -> None:
        async with asyncio.timeout(PATIENCE), testing.a_runtime(pipeline, settings) as worker:
            await story(worker, Client(worker))
            invariants.check(worker.machine)

    asyncio.run(told())


async def failure_of(load: Callable[[], runs.LoadedPipeline]) -> errors.WorkerFailedError:
    worker = runtime.WorkerRuntime(SETTINGS, load=load)
    await worker.start()
    with pytest.raises(errors.WorkerFailedError) as caught:
        await worker.serving()
    with pytest.raises(errors.WorkerFailedError):
        await Client(worker).submit("a")
    assert worker.state == worker_pb2.WORKER_STATE_FAILED
    await worker.close(0.0)
    return caught.value


def test_a_model_that_cannot_be_loaded_fails_the_worker_with_its_reason() -> None:
    def load() -> runs.LoadedPipeline:
        raise model.ModelLoadError("MODEL_NOT_FOUND", "there is nothing at 'x'")

    assert asyncio.run(failure_of(load)).message == "there is nothing at 'x'"


def test_whatever_a_loader_raises_fails_the_worker_in_one_line() -> None:
    def load() -> runs.LoadedPipeline:
        raise RuntimeError("first line\nsecond line")

    assert asyncio.run(failure_of(load)).message == "RuntimeError: first line"


def test_adapters_of_the_settings_are_there_from_the_start() -> None:
    async def story(worker: runtime.WorkerRuntime, client: Client) -> None:
        assert [each.name for each in worker.describe().adapters] == ["style"]

    adapters = (config.AdapterSource(name="style", source="folder"),)
    tell(story, config.WorkerConfig(model=testing.FAKE_MODEL, adapters=adapters))


def test_an_adapter_of_the_settings_that_is_missing_fails_the_worker() -> None:
    async def story() -> str:
        adapters = (config.AdapterSource(name="style", source="missing"),)
        settings = config.WorkerConfig(model=testing.FAKE_MODEL, adapters=adapters)
        worker = runtime.WorkerRuntime(settings, load=testing.FakePipeline)
        await worker.start()
        with contextlib.suppress(errors.WorkerFailedError):
            await worker.serving()
        await worker.close(0.0)
        return worker.failed.result().message

    assert "no adapter at 'missing'" in asyncio.run(story())


def test_closing_without_a_budget_hands_everything_over() -> None:
    async def story(worker: runtime.WorkerRuntime, client: Client) -> None:
        await client.submit("running", is_gated=True)
        await client.until("started", "running")
        await client.submit("waiting")
        followers = [asyncio.create_task(client.events(name)) for name in ("running", "waiting")]
        await client.until("queued", "waiting")
        await worker.close(0.0)
        ends = [names(await follower)[-1] for follower in followers]
        assert ends == ["handed_over", "handed_over"]

    tell(story)


def test_closing_ends_watches_with_the_news_that_the_worker_is_gone() -> None:
    async def story(worker: runtime.WorkerRuntime, client: Client) -> None:
        is_open = asyncio.Event()

        async def watch() -> None:
            async for _ in client.watch():
                is_open.set()

        follower = asyncio.create_task(watch())
        await is_open.wait()
        await worker.close(0.0)
        with pytest.raises(errors.WorkerGoneError):
            await follower

    tell(story)


def test_closing_waits_until_results_are_acknowledged() -> None:
    async def story(worker: runtime.WorkerRuntime, client: Client) -> None:
        await client.submit("a", is_gated=True)
        await client.until("started")
        closing = asyncio.create_task(worker.close(3600.0))
        pipeline = worker.loaded
        assert isinstance(pipeline, testing.FakePipeline)
        pipeline.gate.allow(3)
        await client.result("a")
        assert not closing.done()
        await client.acknowledge("a")
        await closing

    tell(story)


def test_closing_before_the_model_is_loaded_does_not_wait_for_it() -> None:
    async def story() -> None:
        loaded = threading.Event()

        def load() -> runs.LoadedPipeline:
            loaded.wait(PATIENCE)
            return testing.FakePipeline()

        worker = runtime.WorkerRuntime(SETTINGS, load=load)
        await worker.start()
        await worker.close(3600.0)
        loaded.set()

    asyncio.run(story())


def test_a_deadline_ends_a_generation() -> None:
    async def story(worker: runtime.WorkerRuntime, client: Client) -> None:
        deadline = timestamp_pb2.Timestamp()
        deadline.FromNanoseconds(int((time.time() + 0.5) * 1e9))
        request = worker_pb2.SubmitGenerationRequest(
            caller=client.caller,
            request_id="a",
            spec=client.spec(is_gated=True),
            deadline=deadline,
        )
        await worker.submit_generation(request)
        assert (await client.end("a")).failed.error.reason == "DEADLINE_EXCEEDED"
        await client.submit("b")
        await client.result("b")

    tell(story)


def test_work_of_an_engine_that_left_is_cancelled_where_that_is_wanted() -> None:
    async def story(worker: runtime.WorkerRuntime, client: Client) -> None:
        watch = client.watch()
        await anext(aiter(watch))
        await client.submit("a", is_gated=True)
        await client.until("started")
        observer = Client(worker, role="OBSERVER")
        end = asyncio.create_task(observer.end("a"))
        assert isinstance(watch, AsyncGenerator)
        await watch.aclose()
        assert (await end).HasField("cancelled")

    bounds = lifecycle.LifecycleConfig(
        orphan_cancel_seconds=0.05, fence_limits=fencing.FenceLimits(lease_seconds=0.05)
    )
    tell(story, config.WorkerConfig(model=testing.FAKE_MODEL, bounds=bounds, tick_seconds=0.01))


def test_an_encoder_that_raises_fails_its_generation_alone() -> None:
    def encode(
        outputs: Sequence[runs.OutputData], options: worker_pb2.OutputOptions
    ) -> Sequence[runs.OutputData]:
        if options.quality == 1:
            raise OSError("disk full of secrets")
        if options.quality == 2:
            raise errors.InvalidRequestError.at("output.encoding", "must be another one")
        return outputs

    async def story() -> list[str]:
        worker = runtime.WorkerRuntime(SETTINGS, load=testing.FakePipeline, encode=encode)
        await worker.start()
        await worker.serving()
        client = Client(worker)
        reasons = []
        for quality in (1, 2, 3):
            spec = client.spec()
            spec.output.quality = quality
            await client.submit(f"q{quality}", spec=spec)
            event = await client.end(f"q{quality}")
            assert "secrets" not in str(event)
            reasons.append(event.failed.error.reason)
        await worker.close(0.0)
        return reasons

    assert asyncio.run(story()) == ["PIPELINE_ERROR", "INVALID_REQUEST", ""]


def test_a_device_that_fails_the_self_test_fails_the_worker() -> None:
    async def story(worker: runtime.WorkerRuntime, client: Client) -> None:
        await client.submit("a", raises="memory")
        await client.end("a")
        failure = await asyncio.wait_for(asyncio.shield(worker.failed), PATIENCE)
        assert failure.kind == "device"
        assert worker.state == worker_pb2.WORKER_STATE_FAILED

    tell(story, pipeline=testing.FakePipeline(is_broken=True))


def test_facts_for_probes_show_what_the_compute_thread_does() -> None:
    async def story(worker: runtime.WorkerRuntime, client: Client) -> None:
        await client.submit("a", is_gated=True)
        await client.until("started")
        assert worker.facts().signs.activity.name == "RUNNING"
        assert worker.facts().state == worker_pb2.WORKER_STATE_SERVING

    tell(story)


def test_the_clock_of_a_worker_never_goes_back() -> None:
    clock = conductor.steady_clock()
    readings = [clock() for _ in range(100)]
    assert readings == sorted(readings)
    assert abs(readings[0] - time.time()) < 60

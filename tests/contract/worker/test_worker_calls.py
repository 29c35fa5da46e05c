"""What callers see of a worker, over each transport alike."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from callers import Client, names
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers
from kubediffusion_worker import config, lifecycle, queueing, retention, ring, testing
from served import TRANSPORTS, Served, serving

Story = Callable[[Served, Client], Coroutine[None, None, None]]


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def settings(
    *,
    line: queueing.LineLimits | None = None,
    kept: retention.RetentionLimits | None = None,
    max_events: int = 256,
    slots: int = 4,
) -> config.WorkerConfig:
    return config.WorkerConfig(
        model=testing.FAKE_MODEL,
        bounds=lifecycle.LifecycleConfig(
            slots=slots,
            line_limits=line or queueing.LineLimits(),
            retention_limits=kept or retention.RetentionLimits(),
            ring_limits=ring.RingLimits(max_events=max_events),
        ),
    )


def tell(transport: str, story: Story, bounds: config.WorkerConfig | None = None) -> None:
    async def told() -> None:
        async with serving(transport, bounds) as worker:
            await story(worker, worker.client())

    asyncio.run(told())


def test_a_generation_gives_its_result(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        response = await client.submit("a", steps=5, seed=7)
        assert response.is_created
        assert response.incarnation == worker.runtime.incarnation
        events = await client.events("a")
        assert names(events)[:2] == ["queued", "started"]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert await client.result("a") == testing.output_bytes(7, 8 * 8 * 3)

    tell(transport, story)


def test_several_outputs_have_seeds_in_a_row(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        spec = client.spec(seed=10)
        spec.num_outputs = 3
        await client.submit("a", spec=spec)
        expected = [testing.output_bytes(10 + index, 8 * 8 * 3) for index in range(3)]
        assert await client.result("a") == b"".join(expected)
        header, _ = await client.fetch("a")
        assert [output.seed for output in header.outputs] == [10, 11, 12]

    tell(transport, story)


def test_a_seed_that_is_not_given_follows_from_the_ids(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a")
        seed = identifiers.derive_seed("e", "a")
        assert await client.result("a") == testing.output_bytes(seed, 8 * 8 * 3)

    tell(transport, story)


def test_200_duplicates_at_once_are_one_execution(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        responses = await asyncio.gather(*(client.submit("a") for _ in range(200)))
        assert sum(response.is_created for response in responses) == 1
        await client.result("a")
        assert len(worker.pipeline.executed) == 1

    tell(transport, story)


def test_other_content_under_the_same_id_is_a_conflict(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a")
        with pytest.raises(errors.RequestConflictError):
            await client.submit("a", prompt="other")

    tell(transport, story)


def test_attempt_and_priority_do_not_make_another_request(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a")
        response = await client.submit("a", attempt=2, priority=5)
        assert not response.is_created
        assert response.generation.attempt == 2

    tell(transport, story)


def test_an_acknowledged_generation_is_gone_for_good(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a")
        await client.result("a")
        assert await client.acknowledge("a")
        assert not await client.acknowledge("a")
        for call in (client.submit, client.fetch, client.cancel):
            with pytest.raises(errors.AlreadyAcknowledgedError):
                await call("a")
        assert await client.listing() == []

    tell(transport, story)


def test_acknowledging_what_was_never_here_is_no_error(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        assert not await client.acknowledge("a")

    tell(transport, story)


def test_a_running_generation_is_cancelled_within_a_step(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", steps=5, is_gated=True)
        worker.pipeline.gate.allow(2)
        await client.until("progress", step=2)
        response = await client.cancel("a")
        assert response.state == worker_pb2.GENERATION_STATE_RUNNING
        event = await client.end("a")
        assert event.cancelled.step == 2
        with pytest.raises(errors.GenerationCancelledError):
            await client.fetch("a")
        await client.submit("b")
        await client.result("b")

    tell(transport, story)


def test_a_waiting_generation_is_cancelled_at_once(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", is_gated=True)
        await client.submit("b")
        response = await client.cancel("b")
        assert response.state == worker_pb2.GENERATION_STATE_CANCELLED
        assert names(await client.events("b")) == ["queued", "cancelled"]
        worker.pipeline.gate.allow(3)
        await client.result("a")
        assert len(worker.pipeline.executed) == 1

    tell(transport, story)


@pytest.mark.parametrize(
    ("raises", "kind"),
    [
        ("pipeline", errors.PipelineError),
        ("memory", errors.DeviceMemoryError),
        ("invalid", errors.InvalidRequestError),
    ],
)
def test_a_pipeline_that_raises_fails_its_generation_and_no_other(
    transport: str, raises: str, kind: type[errors.KubediffusionError]
) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", raises=raises, at=2)
        event = await client.end("a")
        error = errors.from_message(event.failed.error)
        assert type(error) is kind
        with pytest.raises(kind):
            await client.fetch("a")
        await client.submit("b")
        await client.result("b")

    tell(transport, story)


def test_a_broken_device_fails_the_worker(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", raises="sticky", at=2, is_gated=True)
        await client.submit("b")
        worker.pipeline.gate.allow()
        event = await client.end("a")
        assert event.failed.error.reason == "WORKER_FAILED"
        assert names(await client.events("b")) == ["queued", "handed_over"]
        assert (await client.worker()).state == worker_pb2.WORKER_STATE_FAILED
        with pytest.raises(errors.WorkerFailedError):
            await client.submit("c")

    tell(transport, story)


def test_a_result_is_fetched_on_from_where_it_broke_off(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", size=2_500_000)
        whole = await client.result("a")
        for offset in (0, 1, 999_999, 1_000_000, 2_499_999, 2_500_000):
            header, rest = await client.fetch("a", offset)
            assert header.size == 2_500_000
            assert rest == whole[offset:]
        with pytest.raises(errors.InvalidRequestError, match="offset"):
            await client.fetch("a", 2_500_001)

    tell(transport, story)


def test_the_result_of_an_unfinished_generation_is_not_ready(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", is_gated=True)
        with pytest.raises(errors.ResultNotReadyError):
            await client.fetch("a")
        with pytest.raises(errors.GenerationNotFoundError):
            await client.fetch("b")

    tell(transport, story)


def test_two_watchers_see_the_same_history(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", steps=8, is_gated=True)
        watchers = [asyncio.create_task(client.events("a")) for _ in range(2)]
        for step in range(1, 9):
            worker.pipeline.gate.allow()
            await client.until("progress", step=step)
        first, second = await asyncio.gather(*watchers)
        assert first == second
        assert names(first) == ["queued", "started", *["progress"] * 8, "succeeded"]

    tell(transport, story)


def test_a_watcher_goes_on_from_what_it_has(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", steps=6, is_gated=True)
        worker.pipeline.gate.allow(3)
        seen = []
        async for response in client.watch("a"):
            seen += response.events
            if seen and seen[-1].progress.step == 3:
                break
        worker.pipeline.gate.allow(3)
        seen += await client.events("a", after={"a": seen[-1].sequence})
        sequences = [event.sequence for event in seen]
        assert sequences == list(range(1, len(seen) + 1))
        assert seen[-1].HasField("succeeded")

    tell(transport, story)


def test_ending_a_watch_does_not_end_a_generation(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", is_gated=True)
        async for response in client.watch("a"):
            if "started" in names(response.events):
                break
        worker.pipeline.gate.allow(3)
        await client.result("a")

    tell(transport, story)


def test_history_that_is_lost_is_marked(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", steps=40, is_gated=True)
        for step in range(1, 41):
            worker.pipeline.gate.allow()
            await client.until("progress", step=step)
        await client.end("a")
        gap, *kept = await client.events("a")
        assert gap.gap.first_available_sequence == kept[0].sequence == gap.sequence + 1
        assert len(kept) == 8
        assert kept[-1].HasField("succeeded")

    tell(transport, story, settings(max_events=8))


def test_progress_is_coalesced_for_those_who_want_it_seldom(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", steps=30, is_gated=True)
        watcher = asyncio.create_task(client.events("a", min_interval=600.0))
        for step in range(1, 31):
            worker.pipeline.gate.allow()
            await client.until("progress", step=step)
        seen = await watcher
        assert names(seen).count("progress") <= 1
        assert seen[-1].HasField("succeeded")
        assert seen[-1].sequence == sum(event.coalesced + 1 for event in seen) == 33

    tell(transport, story)


def test_a_full_queue_is_a_clear_error(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("running", is_gated=True)
        await client.until("started", "running")
        await client.submit("waiting")
        with pytest.raises(errors.QueueFullError, match="all 1 places") as caught:
            await client.submit("more")
        assert caught.value.retry_delay is not None

    tell(transport, story, settings(line=queueing.LineLimits(max_items=1), slots=1))


def test_work_is_refused_before_results_of_a_living_engine_are_evicted(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        watch = client.watch()
        await anext(aiter(watch))
        await client.submit("a", size=1000)
        await client.result("a")
        with pytest.raises(errors.RetentionFullError, match="acknowledge"):
            await client.submit("b")
        await client.acknowledge("a")
        await client.submit("b")

    tell(transport, story, settings(kept=retention.RetentionLimits(max_bytes=1000)))


def test_results_of_engines_that_left_are_evicted_oldest_first(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        observer = worker.client(role="OBSERVER")
        for name in ("a", "b", "c"):
            await client.submit(name, size=400)
            await observer.end(name)
        assert [found.request_id for found in await client.listing()] == ["b", "c"]
        with pytest.raises(errors.EvictedError):
            await client.fetch("a")
        with pytest.raises(errors.EvictedError):
            await client.submit("a", size=400)
        assert (await client.submit("a", size=400, attempt=2)).is_created

    tell(transport, story, settings(kept=retention.RetentionLimits(max_bytes=1000)))


def test_a_stale_engine_may_read_but_not_write(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await worker.client(epoch=2).submit("a")
        await worker.client(epoch=2).end("a")
        for write in (client.submit, client.cancel, client.acknowledge):
            with pytest.raises(errors.StaleEpochError):
                await write("a")
        with pytest.raises(errors.StaleEpochError):
            await client.events("a")
        await client.fetch("a")
        assert len(await client.listing()) == 1
        observer = worker.client(epoch=1, role="OBSERVER")
        assert names(await observer.events("a"))[-1] == "succeeded"

    tell(transport, story)


def test_the_watch_of_an_older_start_ends_when_a_newer_one_appears(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        live = asyncio.Event()

        async def watch() -> None:
            async for response in client.watch():
                if response.is_live:
                    live.set()

        watcher = asyncio.create_task(watch())
        await live.wait()
        await anext(aiter(worker.client(epoch=2).watch()))
        with pytest.raises(errors.StaleEpochError, match="epoch 2"):
            await watcher

    tell(transport, story)


def test_the_highest_epoch_is_told(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await worker.client(epoch=7).submit("a")
        response = await client.calls.get_worker(worker_pb2.GetWorkerRequest(engine_id="e"))
        assert response.engine_epoch == 7
        response = await client.calls.get_worker(worker_pb2.GetWorkerRequest(engine_id="other"))
        assert response.engine_epoch == 0

    tell(transport, story)


def test_observers_only_read(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a")
        observer = worker.client(role="OBSERVER")
        for write in (observer.submit, observer.cancel, observer.acknowledge):
            with pytest.raises(errors.MethodNotAllowedError):
                await write("a")
        assert names(await observer.events("a"))[-1] == "succeeded"

    tell(transport, story)


def test_an_operator_cancels_and_fences_nobody(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", is_gated=True)
        await worker.client(epoch=0, role="OPERATOR").cancel("a")
        assert (await client.end("a")).HasField("cancelled")
        await client.submit("b")

    tell(transport, story)


def test_listings_can_be_narrowed_by_engine_and_state(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        other = worker.client("other")
        await client.submit("a")
        await client.end("a")
        await client.submit("b", is_gated=True)
        await client.until("started", "b")
        await other.submit("c")
        assert len(await client.listing()) == 3
        assert [g.request_id for g in await client.listing(engine_id="other")] == ["c"]
        assert [g.request_id for g in await client.listing(states=["RUNNING"])] == ["b"]
        (running,) = await client.listing(states=["RUNNING"])
        assert running.HasField("progress_age")
        (ended,) = await client.listing(states=["SUCCEEDED"])
        assert ended.result.size == 8 * 8 * 3

    tell(transport, story)


def test_a_long_listing_comes_in_pages(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("running", is_gated=True)
        await client.until("started", "running")
        for number in range(600):
            await client.submit(f"r{number}")
        found = await client.listing(states=["QUEUED"])
        assert [generation.position for generation in found] == list(range(600))

    tell(transport, story, settings(slots=1))


def test_the_worker_describes_itself(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        found = await client.worker()
        assert found.state == worker_pb2.WORKER_STATE_SERVING
        assert found.model.pipeline == "FakePipeline"
        assert found.limits.max_queued == 2048
        assert "ping" in found.methods
        assert {"prompt", "num_inference_steps"} <= {each.name for each in found.parameters}
        assert found.capabilities.resume == worker_pb2.RESUME_CAPABILITY_EXACT
        assert found.load.slots == 4

    tell(transport, story)


def test_unknown_parameters_are_refused_with_the_nearest_names(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        with pytest.raises(errors.InvalidRequestError) as caught:
            await client.submit("a", step_secnds=1.0)
        (violation,) = caught.value.violations
        assert violation.field == "extra_args.step_secnds"
        assert "step_seconds" in violation.description
        assert worker.pipeline.executed == []

    tell(transport, story)


def test_adapters_are_loaded_and_unloaded_by_name(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        calls, caller = client.calls, client.caller
        response = await calls.load_adapter(
            worker_pb2.LoadAdapterRequest(caller=caller, name="style", source="folder")
        )
        assert response.adapter.name == "style"
        listing = await calls.list_adapters(worker_pb2.ListAdaptersRequest())
        assert [each.name for each in listing.adapters] == ["style"]
        assert [each.name for each in (await client.worker()).adapters] == ["style"]
        unload = worker_pb2.UnloadAdapterRequest(caller=caller, name="style")
        assert (await calls.unload_adapter(unload)).is_unloaded
        assert not (await calls.unload_adapter(unload)).is_unloaded
        with pytest.raises(errors.AdapterNotFoundError):
            await calls.load_adapter(
                worker_pb2.LoadAdapterRequest(caller=caller, name="x", source="missing")
            )

    tell(transport, story)


def test_a_result_tells_what_its_bits_depend_on(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.call("load_adapter", "style", "folder")
        spec = client.spec()
        spec.adapters.add(name="style", scale=1.0)
        await client.submit("a")
        await client.submit("b", spec=spec)
        plain = (await client.end("a")).succeeded.result.fingerprint
        styled = (await client.end("b")).succeeded.result.fingerprint
        assert plain == (await client.worker()).fingerprint != styled

    tell(transport, story)


def test_an_adapter_that_is_gone_when_its_turn_comes_fails_that_generation(
    transport: str,
) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.call("load_adapter", "style", "folder")
        await client.submit("a", is_gated=True)
        await client.until("started")
        spec = client.spec()
        spec.adapters.add(name="style", scale=1.0)
        await client.submit("b", spec=spec)
        worker.pipeline.adapters.unload("style")
        worker.pipeline.gate.allow(3)
        assert (await client.end("b")).failed.error.reason == "ADAPTER_NOT_FOUND"

    tell(transport, story)


def test_methods_answer_while_a_generation_computes(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", is_gated=True)
        await client.until("started")
        assert await client.call("ping") == "pong"
        assert await client.call("get_rank") == 0
        description = await client.call("describe")
        assert isinstance(description, dict)
        assert (description["running"], description["state"]) == (1, "SERVING")
        health = await client.call("health")
        assert health == {"is_live": True, "is_ready": True, "reason": "serving"}
        stats = await client.call("memory_stats")
        assert isinstance(stats, dict)
        assert stats["process_resident"] > 0

    tell(transport, story)


def test_methods_that_need_the_model_wait_for_the_compute_thread(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", is_gated=True)
        await client.until("started")
        test = asyncio.create_task(client.call("self_test"))
        assert await client.call("ping") == "pong"
        assert worker.pipeline.self_tests == 0
        worker.pipeline.gate.allow(3)
        assert await test is True
        assert worker.pipeline.self_tests == 1
        assert await client.call("empty_cache") is None

    tell(transport, story)


def test_adapters_can_be_managed_by_methods_too(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.call("load_adapter", "style", source="folder")
        assert await client.call("list_adapters") == [{"name": "style", "sha256": "0" * 64}]
        assert await client.call("unload_adapter", name="style") is True
        with pytest.raises(errors.InvalidRequestError, match="source must be a text"):
            await client.call("load_adapter", "style", 7)

    tell(transport, story)


def test_only_listed_methods_may_be_called(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        for name in ("pimg", "__class__", "close", "_ping", ""):
            with pytest.raises(errors.MethodNotAllowedError) as caught:
                await client.call(name)
            assert "ping" in caught.value.metadata["methods"].split(",")
        with pytest.raises(errors.InvalidRequestError, match="too many positional"):
            await client.call("ping", 1)
        with pytest.raises(errors.InvalidRequestError, match="level must be one of"):
            await client.call("set_log_level", "LOUD")
        with pytest.raises(errors.MethodNotAllowedError):
            await worker.client(role="OBSERVER").call("empty_cache")

    tell(transport, story)

"""The engine's promises to its user, over real worker runtimes with a fake pipeline."""

import asyncio
import concurrent.futures
import signal
import threading
from collections.abc import Iterator

import pytest

import engine_fleet
import kubediffusion
from kubediffusion import errors
from kubediffusion_wire import identifiers
from kubediffusion_worker import testing

gated = engine_fleet.gated


@pytest.fixture(name="fleet")
def two_workers() -> Iterator[engine_fleet.FakeFleet]:
    with engine_fleet.fleet("a", "b") as fleet:
        yield fleet


@pytest.fixture(name="engine")
def an_engine(fleet: engine_fleet.FakeFleet) -> Iterator[kubediffusion.DiffusionEngine]:
    with fleet.engine() as engine:
        yield engine


def test_outputs_come_in_the_order_of_their_requests(
    engine: kubediffusion.DiffusionEngine,
) -> None:
    requests = [kubediffusion.OmniDiffusionRequest("p", seed=seed) for seed in range(20)]
    outputs = engine.step(requests)
    assert [output.seed for output in outputs] == list(range(20))
    assert [bytes(output.data) for output in outputs] == [
        testing.output_bytes(seed, 192) for seed in range(20)
    ]


def test_one_request_gives_one_output(engine: kubediffusion.DiffusionEngine) -> None:
    output = engine.step("a cat")
    assert output.prompt == "a cat"
    assert output.images[0].size == (8, 8)
    assert (output.exactness, output.attempt, output.error) == ("exact", 1, None)


def test_no_requests_give_no_outputs(engine: kubediffusion.DiffusionEngine) -> None:
    assert engine.step([]) == []


def test_failing_request_does_not_stop_the_others(engine: kubediffusion.DiffusionEngine) -> None:
    bad, good = engine.step([{"prompt": "p", "extra_args": {"raises": "pipeline"}}, "p"])
    assert isinstance(bad.error, errors.PipelineError)
    with pytest.raises(errors.PipelineError, match="a fake shape does not fit"):
        _ = bad.images
    assert len(good.images) == 1


def test_result_raises_what_went_wrong(engine: kubediffusion.DiffusionEngine) -> None:
    generation = engine.submit({"prompt": "p", "extra_args": {"raises": "memory"}})
    with pytest.raises(errors.DeviceMemoryError):
        generation.result(timeout=engine_fleet.PATIENCE)
    assert generation.state is kubediffusion.GenerationState.FAILED


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"extra_args": {"step_second": 1}}, "extra_args.step_second"),
        ({"extra_args": {"step_seconds": "fast"}}, "extra_args.step_seconds"),
        ({"num_frames": 3}, "num_frames"),
        ({"height": 100_000}, "height"),
        ({"num_inference_steps": -1}, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"request_id": "a/b"}, "request_id"),
        ({"model": "another"}, "model"),
        ({"prompt": "x" * 1_000_000}, "prompt"),
    ],
)
def test_bad_request_is_refused_before_anything_is_sent(
    fleet: engine_fleet.FakeFleet,
    engine: kubediffusion.DiffusionEngine,
    fields: dict[str, object],
    field: str,
) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        engine.submit({"prompt": "p", **fields})
    assert caught.value.violations[0].field == field
    assert fleet.link("a").calls["submit"] + fleet.link("b").calls["submit"] == 0


def test_near_names_are_suggested(engine: kubediffusion.DiffusionEngine) -> None:
    with pytest.raises(errors.InvalidRequestError, match="did you mean step_seconds"):
        engine.submit({"prompt": "p", "extra_args": {"step_second": 1.0}})
    with pytest.raises(errors.UnknownNameError, match="did you mean 'guidance_scale'"):
        engine.submit({"prompt": "p", "guidence_scale": 7.5})


def test_seed_is_drawn_from_the_ids_and_told(engine: kubediffusion.DiffusionEngine) -> None:
    output = engine.submit({"prompt": "p", "request_id": "r"}).result()
    assert output.seed == identifiers.derive_seed("e", "r")


def test_several_outputs_have_consecutive_seeds(engine: kubediffusion.DiffusionEngine) -> None:
    output = engine.step({"prompt": "p", "seed": 5, "num_outputs_per_prompt": 3})
    assert output.seeds == [5, 6, 7]
    assert len(output.images) == 3


def test_events_tell_the_whole_life(
    fleet: engine_fleet.FakeFleet, engine: kubediffusion.DiffusionEngine
) -> None:
    generation = engine.submit(gated(num_inference_steps=2))
    events = generation.events()
    assert [next(events).kind for _ in range(2)] == ["queued", "started"]
    fleet.allow()
    rest = list(events)
    assert [event.kind for event in rest][-2:] == ["progress", "succeeded"]
    assert rest[-2].progress is not None
    assert rest[-2].progress.fraction == 1.0
    assert rest[-1].output is generation.result()
    assert generation.done


def test_two_listeners_hear_the_same(engine: kubediffusion.DiffusionEngine) -> None:
    generation = engine.submit("p")
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: [e.sequence for e in generation], range(2))
    assert first == second


def test_duplicate_submits_are_one_generation(
    fleet: engine_fleet.FakeFleet, engine: kubediffusion.DiffusionEngine
) -> None:
    request = kubediffusion.OmniDiffusionRequest("p", request_id="same")
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        generations = list(threads.map(lambda _: engine.submit(request), range(200)))
    outputs = [generation.result(timeout=engine_fleet.PATIENCE) for generation in generations]
    assert len({bytes(output.data) for output in outputs}) == 1
    assert fleet.executions == 1


def test_same_id_with_other_content_is_refused(engine: kubediffusion.DiffusionEngine) -> None:
    engine.submit({"prompt": "p", "request_id": "r"})
    with pytest.raises(errors.RequestConflictError):
        engine.submit({"prompt": "q", "request_id": "r"})


def test_same_id_and_content_after_the_end_gives_the_same_result(
    fleet: engine_fleet.FakeFleet, engine: kubediffusion.DiffusionEngine
) -> None:
    request = {"prompt": "p", "request_id": "r"}
    first = engine.step(request)
    assert bytes(engine.step(request).data) == bytes(first.data)
    assert fleet.executions == 1


def test_result_that_takes_too_long_is_not_lost(
    fleet: engine_fleet.FakeFleet, engine: kubediffusion.DiffusionEngine
) -> None:
    generation = engine.submit(gated("slow"))
    with pytest.raises(errors.ResultTimeoutError) as caught:
        generation.result(timeout=0.01)
    assert caught.value.request_ids == ("slow",)
    fleet.allow()
    assert generation.result(timeout=engine_fleet.PATIENCE).images


def test_step_budget_names_what_is_unfinished(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine(step_budget=0.05) as engine:
        with pytest.raises(errors.ResultTimeoutError) as caught:
            engine.step([gated("slow"), gated("slower")])
        assert caught.value.request_ids == ("slow", "slower")
        fleet.allow()
        assert engine.generation("slower").result(timeout=engine_fleet.PATIENCE).images


def test_cancel_of_a_running_generation_is_confirmed(
    engine: kubediffusion.DiffusionEngine,
) -> None:
    generation = engine.submit(gated())
    engine_fleet.wait_for(generation, "started")
    generation.cancel()
    assert engine_fleet.wait_for(generation, "cancelled").error is not None
    with pytest.raises(errors.GenerationCancelledError):
        generation.result()
    assert generation.state is kubediffusion.GenerationState.CANCELLED


def test_cancel_of_a_queued_generation_keeps_it_from_running(
    fleet: engine_fleet.FakeFleet, engine: kubediffusion.DiffusionEngine
) -> None:
    running = [engine.submit(gated()) for _ in range(2)]
    for generation in running:
        engine_fleet.wait_for(generation, "started")
    queued = engine.submit(gated("queued"))
    engine_fleet.wait_for(queued, "queued")
    queued.cancel()
    with pytest.raises(errors.GenerationCancelledError):
        queued.result(timeout=engine_fleet.PATIENCE)
    assert fleet.executions == 2


def test_cancel_after_the_end_changes_nothing(engine: kubediffusion.DiffusionEngine) -> None:
    generation = engine.submit("p")
    output = generation.result()
    generation.cancel()
    assert generation.result() is output


def test_unknown_generation_is_an_error(engine: kubediffusion.DiffusionEngine) -> None:
    with pytest.raises(errors.GenerationNotFoundError):
        engine.generation("nobody")


def test_too_many_unfinished_requests_are_refused(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine(max_pending=3) as engine:
        generations = [engine.submit(gated()) for _ in range(3)]
        with pytest.raises(errors.QueueFullError, match="max_pending=3"):
            engine.submit(gated())
        fleet.allow()
        for generation in generations:
            generation.result(timeout=engine_fleet.PATIENCE)
        assert engine.step("p").images


def test_requests_beyond_a_batch_are_refused_as_a_whole(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine(max_pending=3) as engine:
        with pytest.raises(errors.QueueFullError):
            engine.step(["p"] * 4)
        assert engine.generations() == []
        assert fleet.executions == 0


def test_priority_decides_who_goes_first(fleet: engine_fleet.FakeFleet) -> None:
    fleet.kill("b", restart=False)
    with fleet.engine() as engine:
        first = engine.submit(gated("first"))
        engine_fleet.wait_for(first, "started")
        low = engine.submit({"prompt": "low", "priority": -1})
        high = engine.submit({"prompt": "high", "priority": 1})
        engine_fleet.wait_for(low, "queued")
        engine_fleet.wait_for(high, "queued")
        fleet.allow()
        low.result(timeout=engine_fleet.PATIENCE)
        prompts = [spec.prompt for spec in fleet.workers["a"].pipeline.executed]
        assert prompts == ["p", "high", "low"]


def test_deadline_is_kept_by_the_worker(engine: kubediffusion.DiffusionEngine) -> None:
    generation = engine.submit(gated(deadline=0.05))
    with pytest.raises(errors.DeadlineExceededError):
        generation.result(timeout=engine_fleet.PATIENCE)


def test_deadline_is_kept_while_there_is_no_worker(fleet: engine_fleet.FakeFleet) -> None:
    fleet.kill("a", restart=False)
    fleet.kill("b", restart=False)
    with fleet.engine() as engine:
        generation = engine.submit({"prompt": "p", "deadline": 0.05})
        with pytest.raises(errors.DeadlineExceededError):
            generation.result(timeout=engine_fleet.PATIENCE)


def test_work_is_spread_over_idle_workers(
    fleet: engine_fleet.FakeFleet, engine: kubediffusion.DiffusionEngine
) -> None:
    generations = [engine.submit(gated()) for _ in range(10)]
    for generation in generations:
        engine_fleet.wait_for(generation, "queued")
    assert [len(worker.held) for worker in fleet.workers.values()] == [5, 5]


def test_close_wakes_those_who_wait(fleet: engine_fleet.FakeFleet) -> None:
    engine = fleet.engine()
    generation = engine.submit(gated())
    engine_fleet.wait_for(generation, "started")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(generation.result)
        engine.close()
        with pytest.raises(errors.EngineClosedError):
            waiting.result(timeout=engine_fleet.PATIENCE)
    engine.close()
    with pytest.raises(errors.EngineClosedError):
        engine.submit("p")
    with pytest.raises(errors.EngineClosedError):
        engine.check_health()


def test_interrupt_leaves_named_generations_and_cancels_nameless_ones(
    fleet: engine_fleet.FakeFleet, engine: kubediffusion.DiffusionEngine
) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        fleet.until(lambda: all(worker.held for worker in fleet.workers.values()))
        signal.pthread_kill(main, signal.SIGINT)

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        interrupted = threads.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.step([gated("named"), gated()])
        interrupted.result()
    (nameless,) = [each for each in engine.generations() if each.request_id != "named"]
    with pytest.raises(errors.GenerationCancelledError):
        nameless.result(timeout=engine_fleet.PATIENCE)
    fleet.allow()
    assert engine.generation("named").result(timeout=engine_fleet.PATIENCE).images


def test_many_threads_may_use_one_engine(
    fleet: engine_fleet.FakeFleet, engine: kubediffusion.DiffusionEngine
) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        outputs = list(
            threads.map(lambda seed: engine.step({"prompt": "p", "seed": seed}), range(64))
        )
    assert [output.seed for output in outputs] == list(range(64))
    assert fleet.executions == 64


def test_workers_are_described(engine: kubediffusion.DiffusionEngine) -> None:
    first, second = engine.workers()
    assert (first.name, second.name) == ("a", "b")
    assert first.state == "serving"
    assert first.pipeline == "FakePipeline"
    assert first.incarnation != second.incarnation


def test_health_and_methods_go_to_all_workers(engine: kubediffusion.DiffusionEngine) -> None:
    engine.check_health()
    assert engine.collective_rpc("ping") == ["pong", "pong"]
    assert engine.collective_rpc("ping", unique_reply_rank=0) == "pong"


def test_adapters_are_loaded_everywhere_and_used_by_name(
    engine: kubediffusion.DiffusionEngine,
) -> None:
    engine.load_adapter("style", "/somewhere")
    assert [worker.adapters for worker in engine.workers()] == [("style",), ("style",)]
    assert engine.step({"prompt": "p", "lora_request": ("style", 0.5)}).images
    assert engine.unload_adapter("style")
    unknown = engine.step({"prompt": "p", "lora_request": "style"})
    assert isinstance(unknown.error, errors.AdapterNotFoundError)


def test_adapter_that_is_nowhere_is_an_error(engine: kubediffusion.DiffusionEngine) -> None:
    with pytest.raises(errors.AdapterNotFoundError):
        engine.load_adapter("style", "missing")


def test_configured_adapter_is_loaded_and_used_by_default(
    fleet: engine_fleet.FakeFleet,
) -> None:
    with fleet.engine(lora_path="/lora/style.safetensors", lora_scale=0.7) as engine:
        assert engine.step("p").images
        (spec,) = [spec for each in fleet.workers.values() for spec in each.pipeline.executed]
        assert [(use.name, use.scale) for use in spec.adapters] == [("style", 0.7)]


def test_async_engine_does_the_same(fleet: engine_fleet.FakeFleet) -> None:
    async def use() -> list[str]:
        async with kubediffusion.AsyncDiffusionEngine(fleet.config()) as engine:
            outputs = await engine.step(["p", "q"])
            assert [output.prompt for output in outputs] == ["p", "q"]
            assert (await engine.step("r")).images
            generation = await engine.submit({"prompt": "s", "request_id": "s"})
            kinds = [event.kind async for event in generation]
            found = await engine.generation("s")
            assert (await found.result()).prompt == "s"
            await engine.check_health()
            assert await engine.collective_rpc("ping", unique_reply_rank=1) == "pong"
            assert len(await engine.workers()) == 2
            assert len(await engine.generations()) == 4
            slow = await engine.submit(gated())
            with pytest.raises(errors.ResultTimeoutError):
                await slow.result(timeout=0.01)
            await slow.cancel()
            with pytest.raises(errors.GenerationCancelledError):
                await slow.result()
            return kinds

    kinds = asyncio.run(use())
    assert kinds[0] == "queued"
    assert kinds[-1] == "succeeded"


def test_cancelled_async_step_cancels_nameless_generations(
    fleet: engine_fleet.FakeFleet,
) -> None:
    async def use() -> None:
        async with kubediffusion.AsyncDiffusionEngine(fleet.config()) as engine:
            step = asyncio.create_task(engine.step([gated()]))
            while not await engine.generations():  # noqa: ASYNC110  # another loop has it
                await asyncio.sleep(0.001)
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
            (generation,) = await engine.generations()
            with pytest.raises(errors.GenerationCancelledError):
                await generation.result()

    asyncio.run(use())


def test_closed_async_engine_says_so(fleet: engine_fleet.FakeFleet) -> None:
    async def use() -> None:
        engine = kubediffusion.AsyncDiffusionEngine(fleet.config())
        await engine.step("p")
        await engine.close()
        await engine.close()
        with pytest.raises(errors.EngineClosedError):
            await engine.step("p")

    asyncio.run(use())

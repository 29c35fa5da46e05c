"""Pausing, saving and draining through the public engine, over workers in this process."""

import asyncio
import pathlib
from collections.abc import AsyncIterator, Iterator
from concurrent import futures

import pytest

import engine_fleet
import kubediffusion
from engine_fleet import FakeFleet, gated, wait_for
from kubediffusion import errors
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import lifecycle

State = kubediffusion.GenerationState
SECONDS = 60.0


@pytest.fixture(name="pair")
def a_pair() -> Iterator[FakeFleet]:
    with engine_fleet.fleet("a", "b") as workers:
        yield workers


@pytest.fixture(name="single")
def a_single() -> Iterator[FakeFleet]:
    with engine_fleet.fleet("a") as workers:
        yield workers


def begun(fleet: FakeFleet, engine: kubediffusion.DiffusionEngine) -> kubediffusion.Generation:
    """Returns a generation that has done three of ten steps and waits at the gate."""
    generation = engine.submit(gated("film"))
    fleet.allow(3)
    next(e for e in generation.events() if e.kind == "progress" and e.step >= 3)
    return generation


def paused(fleet: FakeFleet, generation: kubediffusion.Generation) -> None:
    """Pauses at the next step."""
    generation.pause()
    fleet.allow(1)
    wait_for(generation, "parked")


def test_a_paused_generation_is_parked_and_goes_on_when_it_may(single: FakeFleet) -> None:
    with single.engine() as engine:
        generation = begun(single, engine)
        paused(single, generation)
        assert generation.state is State.PARKED
        generation.resume()
        single.allow()
        output = generation.result(SECONDS)
        assert (output.attempt, output.resumed_from) == (1, 0)
        kinds = [event.kind for event in generation.events()]
        assert kinds.index("parked") < kinds.index("unpaused") < kinds.index("succeeded")


def test_while_one_is_paused_another_is_computed(single: FakeFleet) -> None:
    with single.engine() as engine:
        film = begun(single, engine)
        paused(single, film)
        single.allow()
        assert engine.step("a picture", timeout=SECONDS).error is None
        assert film.state is State.PARKED
        engine.resume("film")
        assert film.result(SECONDS).error is None


def test_a_paused_generation_can_be_cancelled(single: FakeFleet) -> None:
    with single.engine() as engine:
        generation = begun(single, engine)
        paused(single, generation)
        generation.cancel()
        with pytest.raises(errors.GenerationCancelledError):
            generation.result(SECONDS)


def test_what_waits_for_its_turn_rests_until_it_may() -> None:
    settings = lifecycle.LifecycleConfig(slots=1)
    with engine_fleet.fleet("a", bounds=settings) as fleet, fleet.engine() as engine:
        first = begun(fleet, engine)
        generation = engine.submit(gated("next"))
        wait_for(generation, "queued")
        engine.pause("next")
        wait_for(generation, "parked")
        fleet.allow()
        assert first.result(SECONDS).error is None
        assert engine.step("a picture", timeout=SECONDS).error is None
        assert not generation.done
        engine.resume("next")
        assert generation.result(SECONDS).error is None


def test_what_no_worker_has_is_given_to_none_while_it_is_paused(single: FakeFleet) -> None:
    with single.engine() as engine:
        single.run(single.workers["a"].end())
        generation = engine.submit(gated("film"))
        generation.pause()
        assert generation.state is State.PARKED
        single.allow()
        single.run(single.workers["a"].start())
        assert engine.step("a picture", timeout=SECONDS).error is None
        assert not generation.done
        generation.resume()
        single.allow()
        assert generation.result(SECONDS).error is None


def test_a_pause_outlives_the_engine(single: FakeFleet, tmp_path: pathlib.Path) -> None:
    with single.engine(state_dir=str(tmp_path)) as engine:
        paused(single, begun(single, engine))
    single.allow()
    with single.engine(state_dir=str(tmp_path)) as engine:
        generation = engine.generation("film")
        assert engine.step("a picture", timeout=SECONDS).error is None
        assert generation.state is State.PARKED
        engine.resume("film")
        assert generation.result(SECONDS).error is None


def test_a_paused_generation_rests_on_after_the_death_of_its_worker(pair: FakeFleet) -> None:
    with pair.engine(takeover_seconds=0.5) as engine:
        generation = begun(pair, engine)
        paused(pair, generation)
        saved = generation.checkpoint()
        pair.allow()
        pair.kill(generation.worker, restart=False)
        wait_for(generation, "moved")
        assert engine.step("a picture", timeout=SECONDS).error is None
        assert not generation.done
        generation.resume()
        assert generation.result(SECONDS).resumed_from == saved.step


def test_a_checkpoint_tells_its_step_and_is_told_as_an_event(single: FakeFleet) -> None:
    with single.engine() as engine:
        generation = engine.submit(gated("film", num_inference_steps=1000))
        with futures.ThreadPoolExecutor(1) as threads:
            asked = threads.submit(engine.checkpoint, "film")
            while not asked.done():
                single.allow(1)
                futures.wait([asked], 0.02)
        saved = asked.result()
        assert (saved.request_id, saved.worker) == ("film", "a")
        assert saved.step >= 1
        assert saved.size > 0
        assert len(saved.sha256) == 64
        event = wait_for(generation, "checkpointed")
        assert event.checkpoint_bytes == saved.size
        single.allow()
        assert generation.result(SECONDS).exactness == "exact"


def test_what_has_ended_can_neither_be_paused_nor_saved(single: FakeFleet) -> None:
    with single.engine() as engine:
        single.allow()
        generation = engine.submit("a picture")
        generation.result(SECONDS)
        for call in (generation.pause, generation.resume, generation.checkpoint):
            with pytest.raises(errors.NotResumableError, match="has ended"):
                call()


def test_an_unknown_generation_cannot_be_paused(single: FakeFleet) -> None:
    with single.engine() as engine, pytest.raises(errors.GenerationNotFoundError):
        engine.pause("nobody's")


def test_a_drained_worker_hands_its_work_to_another(pair: FakeFleet) -> None:
    with pair.engine() as engine:
        generation = begun(pair, engine)
        first = generation.worker
        assert engine.drain(first, policy="checkpoint") in ("draining", "drained")
        pair.allow()
        output = generation.result(SECONDS)
        assert output.worker != first
        assert output.exactness == "exact"
        resumed = wait_for(generation, "resumed")
        assert (resumed.worker, resumed.exactness) == (output.worker, "exact")
        assert resumed.step >= 3
        worker = pair.workers[first].runtime
        assert worker is not None
        pair.until(lambda: worker.state == worker_pb2.WORKER_STATE_DRAINED)
        assert engine.undrain(first) == "serving"
        assert engine.step("a picture", timeout=SECONDS).error is None


def test_a_worker_that_may_finish_keeps_its_work(pair: FakeFleet) -> None:
    with pair.engine() as engine:
        generation = begun(pair, engine)
        first = generation.worker
        engine.drain(first, policy="finish", budget=SECONDS)
        pair.allow()
        output = generation.result(SECONDS)
        assert (output.worker, output.attempt) == (first, 1)


@pytest.mark.parametrize(
    ("worker", "options", "field"),
    [
        ("c", {}, "worker"),
        ("a", {"policy": "soon"}, "policy"),
        ("a", {"budget": -1.0}, "budget"),
    ],
)
def test_a_drain_that_makes_no_sense_names_its_field(
    worker: str, options: dict[str, object], field: str, single: FakeFleet
) -> None:
    with single.engine() as engine:
        with pytest.raises(errors.InvalidRequestError) as caught:
            engine.drain(worker, **options)  # type: ignore[arg-type]
        assert [violation.field for violation in caught.value.violations] == [field]


async def until(
    generation: kubediffusion.AsyncGeneration, kind: str
) -> AsyncIterator[kubediffusion.GenerationEvent]:
    async for event in generation:
        yield event
        if event.kind == kind:
            return


def test_asynchronous_code_can_pause_and_save_too(single: FakeFleet) -> None:
    async def scenario() -> None:
        async with kubediffusion.AsyncDiffusionEngine(single.config()) as engine:
            generation = await engine.submit(gated("film"))
            single.allow(3)
            async for event in generation:
                if event.kind == "progress" and event.step >= 3:
                    break
            await generation.pause()
            single.allow(1)
            parked = [event async for event in until(generation, "parked")][-1]
            assert (await generation.checkpoint()).step == parked.step
            await engine.resume("film")
            single.allow()
            assert (await generation.result(SECONDS)).error is None
            assert await engine.undrain("a") == "serving"

    asyncio.run(scenario())

"""Generations on one compute thread: turns, pauses, cancels, checkpoints, jobs beside them."""

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import Awaitable, Callable

import greenlet
import pytest

import compute_stage
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import compute, runs, stage, testing, vitals


def a_spec(steps: int = 4, *, is_gated: bool = False, **extra: str) -> worker_pb2.GenerationSpec:
    values = {name: worker_pb2.Value(text=text) for name, text in extra.items()}
    if is_gated:
        values["is_gated"] = worker_pb2.Value(boolean=True)
    return worker_pb2.GenerationSpec(num_inference_steps=steps, extra_args=values)


def unsavable() -> worker_pb2.GenerationSpec:
    return worker_pb2.GenerationSpec(
        num_inference_steps=4,
        extra_args={
            "is_gated": worker_pb2.Value(boolean=True),
            "cannot_save": worker_pb2.Value(boolean=True),
        },
    )


class Scene:
    """A compute thread with attempts at fake generations."""

    def __init__(self, thread: compute.ComputeThread) -> None:
        self.thread = thread
        self.told = compute_stage.Told()
        self.pipeline = testing.FakePipeline()
        self.attempts: dict[int, compute.Attempt] = {}

    def begin(
        self,
        number: int,
        spec: worker_pb2.GenerationSpec,
        *,
        priority: int = 0,
        pipeline: testing.FakePipeline | None = None,
        policy: compute.CheckpointPolicy = compute_stage.NO_CHECKPOINTS,
        checkpoint: bytes | None = None,
    ) -> compute.Attempt:
        attempt = compute.Attempt(
            number,
            pipeline or self.pipeline,
            spec,
            number,
            priority=priority,
            policy=policy,
            checkpoint=checkpoint,
        )
        self.attempts[number] = attempt
        attempt.begin(self.thread, self.told.reports())
        return attempt

    async def allow_until_step(self, run: int, step: int) -> None:
        """Let steps through one by one until a run has come this far."""
        while max(self.told.steps.get(run, [0])) < step:
            seen = sum(len(each) for each in self.told.steps.values())
            self.pipeline.gate.allow()
            await self.told.until(
                lambda: sum(len(each) for each in self.told.steps.values()) > seen  # noqa: B023  # it is awaited right here
            )


def play(story: Callable[[Scene], Awaitable[None]], *, switches_always: bool = False) -> Scene:
    async def act() -> Scene:
        async with compute_stage.a_thread(switches_always=switches_always) as thread:
            scene = Scene(thread)
            await story(scene)
        return scene

    return asyncio.run(act())


def test_two_runs_take_turns_and_both_end() -> None:
    async def story(scene: Scene) -> None:
        scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        scene.begin(2, a_spec(is_gated=True))
        scene.pipeline.gate.allow()
        await scene.told.until_told("started", 2)
        assert ("ended", 1) not in scene.told.log
        scene.pipeline.gate.allow(7)
        await scene.told.until_freed(1, 2)

    scene = play(story, switches_always=True)
    assert scene.told.steps[1][-1] == scene.told.steps[2][-1] == 4


def test_run_of_higher_priority_goes_first_from_the_next_boundary_on() -> None:
    async def story(scene: Scene) -> None:
        scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        scene.begin(2, a_spec(is_gated=True), priority=1)
        scene.pipeline.gate.allow(8)
        await scene.told.until_freed(1, 2)

    scene = play(story)
    assert [run for what, run in scene.told.log if what == "ended"] == [2, 1]


def test_paused_run_says_where_it_stands_and_goes_on_from_there() -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        attempt.pause()
        scene.pipeline.gate.allow()
        await scene.told.until_told("paused", 1)
        assert scene.told.paused_at == [1]
        async with asyncio.timeout(compute_stage.PATIENCE):
            # The thread goes idle without a word.
            while scene.thread.pulse.read().activity is not vitals.Activity.IDLE:  # noqa: ASYNC110  # see above
                await asyncio.sleep(0)
        scene.begin(2, a_spec())
        await scene.told.until_freed(2)
        assert ("ended", 1) not in scene.told.log
        attempt.unpause()
        scene.pipeline.gate.allow(3)
        await scene.told.until_freed(1)

    scene = play(story)
    assert ("unpaused", 1) in scene.told.log
    assert scene.told.steps[1][-1] == 4


def test_run_that_is_paused_before_its_begin_computes_nothing_until_it_is_unpaused() -> None:
    async def story(scene: Scene) -> None:
        attempt = compute.Attempt(1, scene.pipeline, a_spec(), 1)
        attempt.pause()
        attempt.begin(scene.thread, scene.told.reports())
        await scene.told.until_told("paused", 1)
        assert scene.pipeline.executed == []
        attempt.unpause()
        await scene.told.until_freed(1)

    assert play(story).told.paused_at == [0]


def test_pause_that_is_taken_back_before_a_boundary_is_not_told() -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        attempt.pause()
        attempt.unpause()
        scene.pipeline.gate.allow(4)
        await scene.told.until_freed(1)

    assert {what for what, _ in play(story).told.log} == {"started", "ended", "freed"}


@pytest.mark.parametrize("is_paused", [True, False])
def test_cancel_wakes_a_parked_run_while_the_other_goes_on(is_paused: bool) -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        if is_paused:
            attempt.pause()
        scene.begin(2, a_spec(is_gated=True), priority=1)
        scene.pipeline.gate.allow()
        await scene.told.until_told("started", 2)  # The first one is parked.
        attempt.cancel()
        scene.pipeline.gate.allow(1)
        await scene.told.until_freed(1)
        assert ("ended", 2) not in scene.told.log
        scene.pipeline.gate.allow(3)
        await scene.told.until_freed(2)

    endings = play(story).told.endings
    assert isinstance(endings[1], runs.RunCancelled)
    assert isinstance(endings[2], runs.RunOutcome)


def test_cancelled_run_leaves_on_the_compute_thread() -> None:
    left_on: list[str] = []

    class Pipeline(testing.FakePipeline):
        def start_run(
            self,
            spec: worker_pb2.GenerationSpec,
            *,
            seed: int,
            observer: runs.RunObserver,
            checkpoint: bytes | None = None,
        ) -> testing.FakeRun:
            return Run(self, spec, seed, observer, checkpoint)

    class Run(testing.FakeRun):
        def execute(self) -> runs.RunOutcome:
            try:
                return super().execute()
            finally:
                left_on.append(threading.current_thread().name)

    async def story(scene: Scene) -> None:
        scene.pipeline = Pipeline()
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        attempt.pause()
        scene.pipeline.gate.allow()
        await scene.told.until_told("paused", 1)
        attempt.cancel()
        await scene.told.until_freed(1)

    play(story)
    assert left_on == ["compute"]


def test_run_that_fails_leaves_the_other_alone() -> None:
    async def story(scene: Scene) -> None:
        scene.begin(1, a_spec())
        scene.begin(2, a_spec(raises="pipeline"))
        await scene.told.until_freed(1, 2)

    scene = play(story, switches_always=True)
    assert isinstance(scene.told.endings[1], runs.RunOutcome)
    assert isinstance(scene.told.endings[2], errors.PipelineError)
    assert scene.pipeline.self_tests == 1


def test_nobody_computes_on_a_device_that_has_failed() -> None:
    async def story(scene: Scene) -> None:
        scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        scene.begin(2, a_spec(raises="sticky"), priority=1)
        scene.pipeline.gate.allow(4)
        await scene.told.until_told("broken", 0)
        scene.begin(3, a_spec())

    scene = play(story)
    assert list(scene.told.endings) == [2]
    assert len(scene.pipeline.executed) == 2


def test_run_that_changes_what_others_share_is_not_left() -> None:
    async def story(scene: Scene) -> None:
        exclusive = testing.FakePipeline(is_exclusive=True)
        scene.begin(1, a_spec(), pipeline=exclusive)
        scene.begin(2, a_spec(), priority=1)
        exclusive.gate.allow(4)
        await scene.told.until_freed(1, 2)

    async def told_to(scene: Scene) -> None:
        exclusive = testing.FakePipeline(is_exclusive=True)
        attempt = scene.begin(1, a_spec(is_gated=True), pipeline=exclusive)
        await scene.told.until_told("started", 1)
        scene.begin(2, a_spec(), priority=1)
        attempt.pause()
        exclusive.gate.allow()
        await scene.told.until_told("paused", 1)
        assert ("started", 2) not in scene.told.log
        attempt.unpause()
        exclusive.gate.allow(3)
        await scene.told.until_freed(1, 2)

    play(story)
    order = [entry for entry in play(told_to).told.log if entry[0] in ("started", "ended")]
    assert order == [("started", 1), ("ended", 1), ("started", 2), ("ended", 2)]


def test_checkpoint_that_is_asked_for_is_captured_at_the_next_boundary() -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        attempt.ask_checkpoint()
        scene.pipeline.gate.allow()
        await scene.told.until_told("captured", 1)
        scene.pipeline.gate.allow(3)
        await scene.told.until_freed(1)

    (draft,) = play(story).told.drafts
    assert draft.step == 1
    assert json.loads(draft.to_bytes())["step"] == 1


@pytest.mark.parametrize("is_paused", [True, False])
def test_parked_run_is_captured_at_once(is_paused: bool) -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        if is_paused:
            attempt.pause()
        scene.begin(2, a_spec(is_gated=True), priority=1)
        scene.pipeline.gate.allow()
        await scene.told.until_told("started", 2)
        attempt.ask_checkpoint()
        scene.pipeline.gate.allow()
        await scene.told.until_told("captured", 1)
        assert ("ended", 2) not in scene.told.log
        if is_paused:
            attempt.unpause()
        scene.pipeline.gate.allow(6)
        await scene.told.until_freed(1, 2)

    (draft,) = play(story).told.drafts
    assert draft.step == 1


def test_why_a_checkpoint_that_was_asked_for_is_not_captured_is_told() -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, unsavable())
        await scene.told.until_told("started", 1)
        waiting = scene.begin(2, a_spec())
        waiting.ask_checkpoint()
        attempt.ask_checkpoint()
        scene.pipeline.gate.allow()
        await scene.told.until_told("not captured", 1)
        scene.pipeline.gate.allow(3)
        await scene.told.until_freed(1, 2)

    assert sorted(play(story).told.reasons) == [
        "a fake state without a form as data",
        "it has not begun",
    ]


def test_next_checkpoint_by_time_waits_until_the_last_one_is_stored() -> None:
    async def story(scene: Scene) -> None:
        always = compute.CheckpointPolicy(min_interval=0.0)
        attempt = scene.begin(1, a_spec(9, is_gated=True), policy=always)
        await scene.allow_until_step(1, 3)
        attempt.checkpoint_stored()
        await scene.allow_until_step(1, 6)
        scene.pipeline.gate.allow(3)
        await scene.told.until_freed(1)

    steps = [draft.step for draft in play(story).told.drafts]
    assert len(steps) == 2
    assert steps[0] == 1


def test_run_that_goes_on_from_a_checkpoint_says_so() -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        attempt.ask_checkpoint()
        scene.pipeline.gate.allow()
        await scene.told.until_told("captured", 1)
        attempt.cancel()
        await scene.told.until_freed(1)
        scene.begin(2, a_spec(is_gated=True), checkpoint=scene.told.drafts[0].to_bytes())
        scene.pipeline.gate.allow(3)
        await scene.told.until_freed(2)

    told = play(story).told
    assert told.resumptions == [(1, worker_pb2.EXACTNESS_EXACT)]
    assert told.steps[2][-1] == 4


@pytest.mark.parametrize("interval", [None, 3600.0, 0.0])
def test_previews_come_as_often_as_they_are_wanted(interval: float | None) -> None:
    async def story(scene: Scene) -> None:
        attempt = compute.Attempt(1, scene.pipeline, a_spec(is_gated=True), 1)
        attempt.want_previews(interval)
        attempt.begin(scene.thread, scene.told.reports())
        await scene.allow_until_step(1, 3)
        scene.pipeline.gate.allow()
        await scene.told.until_freed(1)

    steps = [picture.step for picture in play(story).told.previews]
    if interval == 0.0:
        assert steps[-1] == 4
    else:
        assert steps == ([] if interval is None else [1])


def test_jobs_wait_for_the_runs_before_them_unless_they_are_safe() -> None:
    async def story(scene: Scene) -> None:
        scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        job = scene.thread.call(lambda: list(scene.pipeline.executed))
        scene.begin(2, a_spec())
        safe = scene.thread.call(greenlet.getcurrent, is_safe=True)
        scene.pipeline.gate.allow()
        assert (await safe).parent is None
        assert not job.done()
        scene.pipeline.gate.allow(3)
        assert len(await job) == 1
        await scene.told.until_freed(2)

    play(story)


def test_jobs_do_not_wait_for_runs_that_are_paused() -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        attempt.pause()
        scene.pipeline.gate.allow()
        await scene.told.until_told("paused", 1)
        assert await scene.thread.call(lambda: 42) == 42
        attempt.cancel()
        await scene.told.until_freed(1)

    play(story)


def test_thread_ends_though_a_run_is_paused() -> None:
    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        attempt.pause()
        scene.begin(2, a_spec()).pause()
        scene.pipeline.gate.allow()
        await scene.told.until_told("paused", 1)

    assert ("started", 2) not in play(story).told.log


def test_memory_of_a_parked_run_is_free_once_it_is_cancelled() -> None:
    class Tensor:
        """Something large in a pipeline's frame."""

    class Pipeline(testing.FakePipeline):
        def start_run(
            self,
            spec: worker_pb2.GenerationSpec,
            *,
            seed: int,
            observer: runs.RunObserver,
            checkpoint: bytes | None = None,
        ) -> testing.FakeRun:
            return Run(self, spec, seed, observer, checkpoint)

    class Run(testing.FakeRun):
        def execute(self) -> runs.RunOutcome:
            large = Tensor()
            kept.append(weakref.ref(large))
            return super().execute()

    kept: list[weakref.ref[Tensor]] = []

    async def story(scene: Scene) -> None:
        scene.pipeline = Pipeline()
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.told.until_told("started", 1)
        attempt.pause()
        scene.pipeline.gate.allow()
        await scene.told.until_told("paused", 1)
        assert kept[0]() is not None
        gc.disable()
        try:
            attempt.cancel()
            await scene.told.until_freed(1)
            assert kept[0]() is None
        finally:
            gc.enable()

    play(story)


def test_signs_of_life_are_those_of_the_run_that_computes() -> None:
    read: list[vitals.Signs] = []

    async def story(scene: Scene) -> None:
        attempt = scene.begin(1, a_spec(is_gated=True))
        await scene.allow_until_step(1, 2)
        scene.begin(2, a_spec(7, is_gated=True), priority=1)
        scene.pipeline.gate.allow()
        await scene.told.until_told("started", 2)
        await scene.allow_until_step(2, 5)
        read.append(scene.thread.pulse.read())
        scene.pipeline.gate.allow(2)
        await scene.told.until_freed(2)
        attempt.cancel()
        await scene.told.until_freed(1)

    play(story)
    assert (read[0].steps, read[0].total) == (5, 7)


def test_boundary_without_others_costs_microseconds() -> None:
    clock = iter(range(10**9))
    alone = stage.Stage(lambda: float(next(clock)))
    calls: list[str] = []

    class Player:
        act: stage.Act

        def play(self) -> None:
            for _ in range(1000):
                alone.boundary(self.act)
            alone.close()

        def attend(self) -> None:
            calls.append("attend")

        def park(self) -> bool:
            calls.append("park")
            return True

        def unpark(self) -> None: ...

        def paused(self) -> None: ...

        def unpaused(self) -> None: ...

    player = Player()
    player.act = stage.Act(1, player, priority=0, deadline=None)
    alone.order(lambda: alone.enter(player.act))
    alone.work()
    assert calls == ["attend"] * 1000

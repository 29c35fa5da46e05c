import asyncio
import threading

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import compute, runs, testing

PATIENCE = 60.0


class Told:
    """Collects reports until the thread is free or broken."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.step_count = 0
        self.order: list[str] = []
        self.ending: compute.Ending | None = None
        self.over = asyncio.Event()

    def reports(self) -> compute.Reports:
        return compute.Reports(
            lambda run: self.order.append("started"),
            self._advanced,
            self._ended,
            lambda run: self._over("freed"),
            lambda text: self._over(f"broken: {text}"),
        )

    def _advanced(self, run: int, advance: compute.Advance) -> None:
        self.order.append("advanced")
        self.steps.append(advance.newest.step)
        self.step_count += len(advance.step_seconds)

    def _ended(self, run: int, ending: compute.Ending) -> None:
        self.order.append("ended")
        self.ending = ending

    def _over(self, what: str) -> None:
        self.order.append(what)
        self.over.set()


def perform(
    pipeline: testing.FakePipeline, spec: worker_pb2.GenerationSpec, *, cancel_first: bool = False
) -> Told:
    async def story() -> Told:
        thread = compute.ComputeThread()
        thread.start()
        told = Told()
        attempt = compute.Attempt(1, pipeline, spec, seed=7)
        if cancel_first:
            attempt.cancel()
        attempt.begin(thread, told.reports())
        async with asyncio.timeout(PATIENCE):
            await told.over.wait()
        assert await thread.stop(PATIENCE)
        return told

    return asyncio.run(story())


def a_spec(steps: int = 3, **texts: str) -> worker_pb2.GenerationSpec:
    extra = {name: worker_pb2.Value(text=text) for name, text in texts.items()}
    return worker_pb2.GenerationSpec(num_inference_steps=steps, extra_args=extra)


def test_a_run_reports_its_start_its_steps_and_its_end_in_this_order() -> None:
    told = perform(testing.FakePipeline(), a_spec())
    assert isinstance(told.ending, runs.RunOutcome)
    assert told.order[0] == "started"
    assert told.order[-2:] == ["ended", "freed"]
    assert told.steps[-1] == 3


def test_a_fast_pipeline_does_not_flood_the_loop() -> None:
    told = perform(testing.FakePipeline(), a_spec(steps=20_000))
    assert told.step_count <= 20_000
    assert told.steps[-1] == 20_000
    assert len(told.steps) < 2_000
    assert told.steps == sorted(set(told.steps))


def test_a_run_that_was_cancelled_before_it_began_computes_nothing() -> None:
    pipeline = testing.FakePipeline()
    told = perform(pipeline, a_spec(), cancel_first=True)
    assert isinstance(told.ending, runs.RunCancelled)
    assert pipeline.executed == []


@pytest.mark.parametrize(
    ("raises", "kind", "self_tests"),
    [
        ("pipeline", errors.PipelineError, 1),
        ("memory", errors.DeviceMemoryError, 1),
        ("invalid", errors.InvalidRequestError, 0),
        ("exit", errors.PipelineError, 1),
    ],
)
def test_what_a_pipeline_raises_ends_its_run_alone(
    raises: str, kind: type[Exception], self_tests: int
) -> None:
    pipeline = testing.FakePipeline()
    told = perform(pipeline, a_spec(raises=raises))
    assert isinstance(told.ending, kind)
    assert told.order[-1] == "freed"
    assert pipeline.self_tests == self_tests


def test_a_fault_of_the_device_that_stays_breaks_the_worker() -> None:
    told = perform(testing.FakePipeline(), a_spec(raises="sticky"))
    assert isinstance(told.ending, errors.WorkerFailedError)
    assert told.order[-1] == "broken: the device failed: a fake fault that stays"


def test_a_failing_self_test_breaks_the_worker_after_the_run_has_ended() -> None:
    told = perform(testing.FakePipeline(is_broken=True), a_spec(raises="pipeline"))
    assert isinstance(told.ending, errors.PipelineError)
    assert told.order[-2:] == ["ended", "broken: the device failed: a fake fault that stays"]


def test_jobs_run_on_the_one_thread_and_answer_on_the_loop() -> None:
    async def story() -> tuple[str, str]:
        thread = compute.ComputeThread()
        thread.start()
        names = [await thread.call(lambda: threading.current_thread().name) for _ in range(2)]
        await thread.stop(PATIENCE)
        return names[0], names[1]

    assert asyncio.run(story()) == ("compute", "compute")


def test_a_job_that_raises_tells_its_caller_and_the_thread_goes_on() -> None:
    async def story() -> int:
        thread = compute.ComputeThread()
        thread.start()
        with pytest.raises(KeyError):
            await thread.call(lambda: {}["x"])
        with pytest.raises(RuntimeError, match="SystemExit"):
            await thread.call(lambda: exit(1))  # it is what is tested
        answer = await thread.call(lambda: 42)
        await thread.stop(PATIENCE)
        return answer

    assert asyncio.run(story()) == 42

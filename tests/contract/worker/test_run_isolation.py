"""What one run leaves behind: nothing, whether it ends, fails or is cancelled."""

import gc
import random
import threading
import weakref
from collections.abc import Callable

import numpy
import pytest
import torch

import run_observers
import zoo
import zoo_requests
from kubediffusion_wire import errors
from kubediffusion_worker import pipeline, runs

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]


@pytest.fixture(scope="module")
def shared() -> pipeline.SharedPipeline:
    zoo.shared("sd15_unipc")  # Not built in a test that looks at memory.
    return pipeline.SharedPipeline.from_pipeline(zoo.build("sd15_unipc").pipeline)


def run(shared: pipeline.SharedPipeline, recorder: run_observers.Recorder, seed: int = 0) -> bytes:
    spec = zoo_requests.spec_of(zoo.shared("sd15_unipc"))
    return bytes(shared.start_run(spec, seed=seed, observer=recorder).execute().outputs[0].data)


class TroubleError(Exception):
    """Stands for whatever goes wrong in a pipeline."""


def raise_trouble(_number: int) -> None:
    raise TroubleError("in the middle")


def fail_from(number: int) -> Callable[[int], None]:
    return lambda seam: raise_trouble(seam) if seam >= number else None


def test_runs_cancelled_or_failed_at_each_seam_leave_no_trace(
    shared: pipeline.SharedPipeline,
) -> None:
    undisturbed = run_observers.Recorder()
    wanted = run(shared, undisturbed)
    for number in range(1, undisturbed.seams + 1):
        with pytest.raises(errors.PipelineError, match="in the middle"):
            run(shared, run_observers.Recorder(at_seam=fail_from(number)))
    assert run(shared, run_observers.Recorder()) == wanted


def test_schedulers_of_a_pipeline_stay_unused(shared: pipeline.SharedPipeline) -> None:
    specimen = zoo.build("sd15_unipc")
    fresh = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    before = dict(vars(specimen.pipeline.scheduler))  # pyright: ignore[reportAttributeAccessIssue]  # of this pipeline
    run(fresh, run_observers.Recorder())
    after = dict(vars(specimen.pipeline.scheduler))  # pyright: ignore[reportAttributeAccessIssue]  # of this pipeline
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


def test_scheduler_used_by_others_does_not_change_results() -> None:
    specimen = zoo.build("sd15_unipc")
    shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    wanted = run(shared, run_observers.Recorder())
    zoo.call_plainly(specimen, steps=7)
    assert run(shared, run_observers.Recorder()) == wanted


def test_global_random_generators_do_not_notice(shared: pipeline.SharedPipeline) -> None:
    states = (random.getstate(), numpy.random.get_state()[1].tobytes(), torch.get_rng_state())  # type: ignore[union-attr]  # a tuple by default
    run(shared, run_observers.Recorder())
    assert random.getstate() == states[0]
    assert numpy.random.get_state()[1].tobytes() == states[1]  # type: ignore[union-attr]  # a tuple by default
    assert torch.equal(torch.get_rng_state(), states[2])


def test_global_random_generators_do_not_matter() -> None:
    name = "flux_stochastic"  # Its steps draw from torch's global generator.
    shared = pipeline.SharedPipeline.from_pipeline(zoo.shared(name).pipeline)
    spec = zoo_requests.spec_of(zoo.shared(name))
    found = set()
    for state in (1, 2):
        torch.manual_seed(state)
        outcome = shared.start_run(spec, seed=0, observer=run_observers.Recorder()).execute()
        found.add(bytes(outcome.outputs[0].data))
    assert len(found) == 1


def test_cancel_from_another_thread_leaves_a_running_step(
    shared: pipeline.SharedPipeline,
) -> None:
    in_step, cancelled = threading.Event(), threading.Event()

    def wait_in_step(_report: runs.StepReport) -> None:
        in_step.set()
        assert cancelled.wait(60)

    recorder = run_observers.Recorder(at_step=wait_in_step)
    spec = zoo_requests.spec_of(zoo.shared("sd15_unipc"), steps=50)
    attempt = shared.start_run(spec, seed=0, observer=recorder)

    def cancel() -> None:
        assert in_step.wait(60)
        attempt.cancel()
        cancelled.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(runs.RunCancelled):
        attempt.execute()
    thread.join()
    assert len(recorder.reports) == 1


def test_run_cancelled_before_it_starts_computes_nothing(
    shared: pipeline.SharedPipeline,
) -> None:
    recorder = run_observers.Recorder()
    attempt = shared.start_run(
        zoo_requests.spec_of(zoo.shared("sd15_unipc")), seed=0, observer=recorder
    )
    attempt.cancel()
    with pytest.raises(runs.RunCancelled):
        attempt.execute()
    assert recorder.seams == 0


def living_tensors() -> list[torch.Tensor]:
    return [each for each in gc.get_objects() if type(each) is torch.Tensor]


class TensorCatcher(run_observers.Recorder):
    """Keeps weak references to the tensors that the run has made up to its second step."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__(at_step=self._catch)
        self.caught: list[weakref.ref[torch.Tensor]] = []
        self._older = {id(each) for each in living_tensors()}
        self._then = then

    def _catch(self, report: runs.StepReport) -> None:
        if report.step == 2:
            self.caught = [
                weakref.ref(each) for each in living_tensors() if id(each) not in self._older
            ]
            self._then()

    def living(self) -> int:
        return sum(each() is not None for each in self.caught)


def fail() -> None:
    raise TroubleError("with tensors in its frames")


def test_tensors_of_a_failed_run_are_freed(shared: pipeline.SharedPipeline) -> None:
    catcher = TensorCatcher(fail)
    with pytest.raises(errors.PipelineError) as caught:
        run(shared, catcher)
    assert catcher.caught
    assert catcher.living() == 0
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_tensors_of_a_cancelled_run_are_freed_without_a_collection(
    shared: pipeline.SharedPipeline,
) -> None:
    catcher = TensorCatcher(lambda: attempt.cancel())
    spec = zoo_requests.spec_of(zoo.shared("sd15_unipc"))
    attempt = shared.start_run(spec, seed=0, observer=catcher)
    gc.disable()
    try:
        with pytest.raises(runs.RunCancelled):
            attempt.execute()
        assert catcher.caught
        assert catcher.living() == 0
    finally:
        gc.enable()


def test_tensors_of_a_run_are_freed_without_a_collection(
    shared: pipeline.SharedPipeline,
) -> None:
    catcher = TensorCatcher(lambda: None)
    gc.disable()
    try:
        run(shared, catcher)
        assert catcher.caught
        assert catcher.living() == 0
    finally:
        gc.enable()


def test_observer_may_leave_the_pipeline_in_its_own_way(
    shared: pipeline.SharedPipeline,
) -> None:
    class Parked(BaseException):
        pass

    def park(_number: int) -> None:
        raise Parked

    wanted = run(shared, run_observers.Recorder())
    with pytest.raises(Parked):
        run(shared, run_observers.Recorder(at_boundary=park))
    assert run(shared, run_observers.Recorder()) == wanted


def test_attention_processors_are_put_back_after_a_cancel() -> None:
    shared = pipeline.SharedPipeline.from_pipeline(zoo.build("sd_pag").pipeline)
    specimen = zoo.shared("sd_pag")
    spec = zoo_requests.spec_of(specimen)
    without = zoo_requests.spec_of(specimen)
    without.extra_args["pag_scale"].number = 0.0
    wanted = shared.start_run(without, seed=0, observer=run_observers.Recorder()).execute()
    attempt = shared.start_run(
        spec, seed=0, observer=run_observers.Recorder(at_boundary=lambda _number: attempt.cancel())
    )
    with pytest.raises(runs.RunCancelled):
        attempt.execute()
    found = shared.start_run(without, seed=0, observer=run_observers.Recorder()).execute()
    assert bytes(found.outputs[0].data) == bytes(wanted.outputs[0].data)

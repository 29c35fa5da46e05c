"""What must hold for any pipeline is tried on forty of them, of different families."""

import contextlib
import dataclasses
import functools
import math
from typing import Any

import numpy
import pytest

import run_observers
import zoo
import zoo_requests
from kubediffusion_worker import pipeline, runs

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

WITHOUT_STEPS = {"ltx_upsample"}

each_species = pytest.mark.parametrize("name", zoo.NAMES)
each_species_with_steps = pytest.mark.parametrize(
    "name", [name for name in zoo.NAMES if name not in WITHOUT_STEPS]
)


@dataclasses.dataclass(frozen=True)
class Watched:
    outcome: runs.RunOutcome
    recorder: run_observers.Recorder


@functools.cache
def plain_arrays(name: str) -> list[numpy.ndarray[Any, numpy.dtype[Any]]]:
    """Computed by a pipeline that our code has never seen."""
    return zoo_requests.arrays_of_plain(zoo.call_plainly(zoo.build(name)))


@functools.cache
def shared(name: str) -> pipeline.SharedPipeline:
    return pipeline.SharedPipeline.from_pipeline(zoo.shared(name).pipeline)


def start(name: str, recorder: run_observers.Recorder) -> runs.Run:
    spec = zoo_requests.spec_of(zoo.shared(name))
    return shared(name).start_run(spec, seed=0, observer=recorder)


@functools.cache
def undisturbed(name: str) -> Watched:
    recorder = run_observers.Recorder()
    return Watched(start(name, recorder).execute(), recorder)


def assert_same_bits(
    found: tuple[runs.OutputData, ...], wanted: list[numpy.ndarray[Any, numpy.dtype[Any]]]
) -> None:
    arrays = zoo_requests.arrays_of_outputs(found)
    assert [(each.shape, each.dtype) for each in arrays] == [
        (each.shape, each.dtype) for each in wanted
    ]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, wanted, strict=True))


def test_zoo_has_at_least_28_families() -> None:
    assert len({type(zoo.shared(name).pipeline) for name in zoo.NAMES}) >= 28


@each_species
def test_run_gives_the_bits_of_plain_diffusers(name: str) -> None:
    assert_same_bits(undisturbed(name).outcome.outputs, plain_arrays(name))


@each_species_with_steps
def test_progress_counts_up_to_its_total(name: str) -> None:
    reports = undisturbed(name).recorder.reports
    assert [report.step for report in reports] == list(range(1, len(reports) + 1))
    assert all(report.step <= report.total for report in reports)
    assert [report.total for report in reports] == sorted(report.total for report in reports)
    assert reports[-1].step == reports[-1].total == undisturbed(name).outcome.steps
    assert all(math.isfinite(report.timestep) for report in reports)


@each_species_with_steps
def test_boundaries_lie_between_steps(name: str) -> None:
    watched = undisturbed(name)
    # A forward after the last step, for example of a vocoder, is one more.
    assert watched.recorder.boundaries - len(watched.recorder.reports) in (-1, 0)


@each_species
def test_cancelled_run_computes_no_further_step(name: str) -> None:
    recorder = run_observers.Recorder(
        at_step=lambda _report: run.cancel(),
        at_seam=lambda _number: run.cancel() if name in WITHOUT_STEPS else None,
    )
    run = start(name, recorder)
    with pytest.raises(runs.RunCancelled):
        run.execute()
    assert len(recorder.reports) == (0 if name in WITHOUT_STEPS else 1)


@each_species
def test_next_run_after_a_cancel_has_the_same_bits(name: str) -> None:
    run = start(name, run_observers.Recorder(at_seam=lambda n: run.cancel() if n == 4 else None))
    with contextlib.suppress(runs.RunCancelled):  # A short run may end before its fourth seam.
        run.execute()
    again = start(name, run_observers.Recorder()).execute()
    assert_same_bits(again.outputs, plain_arrays(name))


@each_species
def test_pipeline_itself_is_left_as_it_was(name: str) -> None:
    undisturbed(name)
    plain = zoo_requests.arrays_of_plain(zoo.call_plainly(zoo.shared(name)))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(plain, plain_arrays(name), strict=True))

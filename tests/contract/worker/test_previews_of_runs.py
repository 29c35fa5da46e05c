"""Previews while pipelines run."""

import numpy
import pytest

import run_observers
import zoo
import zoo_requests
from kubediffusion_worker import pipeline, previews, runs

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]


def watched(name: str, *, is_curious: bool) -> tuple[runs.RunOutcome, run_observers.Recorder]:
    specimen = zoo.shared(name)
    shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    shared.painter = previews.painter_of(specimen.pipeline)
    recorder = run_observers.Recorder(is_curious=is_curious)
    run = shared.start_run(zoo_requests.spec_of(specimen), seed=0, observer=recorder)
    return run.execute(), recorder


@pytest.mark.parametrize(
    "name", ["sd15_heun", "ddpm", "flux", "qwen_image", "wan", "ltx2", "cogvideox", "z_image"]
)
def test_every_step_gives_a_picture_and_the_result_is_the_same(name: str) -> None:
    outcome, recorder = watched(name, is_curious=True)
    undisturbed, _ = watched(name, is_curious=False)
    assert [each.step for each in recorder.previews] == [each.step for each in recorder.reports]
    for each in recorder.previews:
        assert len(each.pixels) == 3 * each.width * each.height > 0
    assert [bytes(each.data) for each in outcome.outputs] == [
        bytes(each.data) for each in undisturbed.outputs
    ]


def test_nobody_who_does_not_ask_gets_a_preview() -> None:
    _, recorder = watched("sd15", is_curious=False)
    assert recorder.previews == []


def test_pictures_change_from_step_to_step() -> None:
    _, recorder = watched("sd15", is_curious=True)
    first, *_, last = (numpy.frombuffer(each.pixels, "uint8") for each in recorder.previews)
    assert not numpy.array_equal(first, last)

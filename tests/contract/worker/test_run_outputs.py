"""Several outputs, latents, floats, devices: each is what plain diffusers gives."""

from typing import Any

import numpy
import pytest
import torch

import run_observers
import zoo
import zoo_requests
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import encodings, pipeline, runs

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]


@pytest.fixture(scope="module")
def shared() -> pipeline.SharedPipeline:
    return pipeline.SharedPipeline.from_pipeline(zoo.build("sd15").pipeline)


def run(
    shared: pipeline.SharedPipeline, seed: int = 5, **fields: Any
) -> tuple[runs.RunOutcome, run_observers.Recorder]:
    recorder = run_observers.Recorder()
    spec = zoo_requests.spec_of(zoo.shared("sd15"), **fields)
    return shared.start_run(spec, seed=seed, observer=recorder).execute(), recorder


def output_options(output_type: worker_pb2.OutputType) -> worker_pb2.OutputOptions:
    return worker_pb2.OutputOptions(type=output_type)


def test_output_i_is_the_one_of_seed_plus_i(shared: pipeline.SharedPipeline) -> None:
    several, _ = run(shared, num_outputs=3)
    singles = [run(shared, seed=seed)[0].outputs[0] for seed in (5, 6, 7)]
    assert [output.seed for output in several.outputs] == [5, 6, 7]
    assert [bytes(output.data) for output in several.outputs] == [
        bytes(output.data) for output in singles
    ]


def test_progress_runs_over_all_outputs(shared: pipeline.SharedPipeline) -> None:
    outcome, recorder = run(shared, num_outputs=3)
    assert [(each.step, each.total) for each in recorder.reports] == [
        (step, 9) for step in range(1, 10)
    ]
    assert outcome.steps == 9


def test_cancel_works_in_the_second_output(shared: pipeline.SharedPipeline) -> None:
    recorder = run_observers.Recorder(
        at_step=lambda report: attempt.cancel() if report.step == 4 else None
    )
    spec = zoo_requests.spec_of(zoo.shared("sd15"), num_outputs=3)
    attempt = shared.start_run(spec, seed=5, observer=recorder)
    with pytest.raises(runs.RunCancelled):
        attempt.execute()
    assert len(recorder.reports) == 4


def test_pipeline_without_a_parameter_for_it_makes_several_outputs() -> None:
    name = "ltx_upsample"
    shared = pipeline.SharedPipeline.from_pipeline(zoo.shared(name).pipeline)
    spec = zoo_requests.spec_of(zoo.shared(name), num_outputs=2)
    shared.check(spec)
    outcome = shared.start_run(spec, seed=0, observer=run_observers.Recorder()).execute()
    assert len(outcome.outputs) == 2


def test_floats_are_those_of_plain_diffusers(shared: pipeline.SharedPipeline) -> None:
    plain = zoo.call_plainly(zoo.build("sd15"), seed=5, output_type="np")
    outcome, _ = run(shared, output=output_options(worker_pb2.OUTPUT_TYPE_FLOAT))
    (output,) = outcome.outputs
    assert output.dtype == "float32"
    assert bytes(output.data) == plain["images"].tobytes()


def test_latents_are_those_of_plain_diffusers(shared: pipeline.SharedPipeline) -> None:
    plain = zoo.call_plainly(zoo.build("sd15"), seed=5, output_type="latent")
    outcome, _ = run(shared, output=output_options(worker_pb2.OUTPUT_TYPE_LATENT))
    (output,) = outcome.outputs
    assert (output.kind, output.shape) == (worker_pb2.OUTPUT_KIND_LATENTS, (4, 16, 16))
    assert bytes(output.data) == plain["images"].numpy().tobytes()


def test_bfloat16_latents_stay_bfloat16() -> None:
    specimen = zoo.build("sd15")
    specimen.pipeline.to(torch.bfloat16)
    shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    assert shared.dtype == "bfloat16"
    outcome, _ = run(shared, output=output_options(worker_pb2.OUTPUT_TYPE_LATENT))
    assert outcome.outputs[0].dtype == "bfloat16"
    assert len(outcome.outputs[0].data) == 2 * 4 * 16 * 16


def test_outcome_tells_what_it_took(shared: pipeline.SharedPipeline) -> None:
    outcome, recorder = run(shared)
    assert outcome.compute_seconds >= sum(each.seconds for each in recorder.reports)
    assert outcome.step_seconds == sorted(each.seconds for each in recorder.reports)[1]
    assert outcome.peak_memory_bytes > 0


def test_raw_output_becomes_the_picture_as_a_file(shared: pipeline.SharedPipeline) -> None:
    outcome, _ = run(shared)
    options = worker_pb2.OutputOptions(encoding=worker_pb2.ENCODING_PNG)
    (file,) = encodings.encode(outcome.outputs, options)
    assert bytes(file.data[:4]) == b"\x89PNG"


def test_safety_checkers_verdict_comes_with_the_output() -> None:
    specimen = zoo.build("sd15")

    def checker(
        images: numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float32]], **_: object
    ) -> tuple[object, list[bool]]:
        return images, [True]

    vars(specimen.pipeline)["safety_checker"] = checker
    vars(specimen.pipeline)["feature_extractor"] = _FeatureExtractor()
    shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    outcome, _ = run(shared)
    assert [output.is_flagged for output in outcome.outputs] == [True]


class _FeatureExtractor:
    def __call__(self, images: object, return_tensors: str) -> "_FeatureExtractor":
        self.pixel_values = torch.zeros(1)
        return self

    def to(self, device: object) -> "_FeatureExtractor":
        return self


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"output": output_options(worker_pb2.OUTPUT_TYPE_UINT8), "num_frames": 3}, "num_frames"),
        (
            {"output": worker_pb2.OutputOptions(encoding=worker_pb2.ENCODING_MP4)},
            "output.encoding",
        ),
        (
            {
                "output": worker_pb2.OutputOptions(
                    type=worker_pb2.OUTPUT_TYPE_LATENT, encoding=worker_pb2.ENCODING_PNG
                )
            },
            "output.encoding",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_computing(
    shared: pipeline.SharedPipeline, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        run(shared, **fields)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_generator_may_live_on_the_device(shared: pipeline.SharedPipeline) -> None:
    on_cpu, _ = run(shared)
    on_device, _ = run(shared, generator_device="device")
    assert bytes(on_cpu.outputs[0].data) == bytes(on_device.outputs[0].data)

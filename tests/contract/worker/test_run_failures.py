"""Pipelines that raise: the generation fails as what it is, and the next one works."""

from typing import Any

import pytest
import torch

import run_observers
import zoo
import zoo_requests
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import pipeline, runs

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]


@pytest.fixture(scope="module")
def shared() -> pipeline.SharedPipeline:
    return pipeline.SharedPipeline.from_pipeline(zoo.build("sd15").pipeline)


def run(shared: pipeline.SharedPipeline, **fields: Any) -> bytes:
    spec = zoo_requests.spec_of(zoo.shared("sd15"), **fields)
    attempt = shared.start_run(spec, seed=0, observer=run_observers.Recorder())
    return bytes(attempt.execute().outputs[0].data)


def broken(error: BaseException) -> pipeline.SharedPipeline:
    """Returns a pipeline whose denoiser raises."""
    specimen = zoo.build("sd15")

    def forward(*_args: object, **_kwargs: object) -> None:
        raise error

    vars(specimen.pipeline.components["unet"])["forward"] = forward
    return pipeline.SharedPipeline.from_pipeline(specimen.pipeline)


def test_size_that_the_pipeline_refuses_is_the_requests_fault(
    shared: pipeline.SharedPipeline,
) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        run(shared, height=33)
    assert [violation.field for violation in caught.value.violations] == ["height", "width"]
    assert "divisible by 8" in caught.value.violations[0].description


def test_missing_prompt_is_the_requests_fault(shared: pipeline.SharedPipeline) -> None:
    spec = worker_pb2.GenerationSpec(num_inference_steps=1)
    with pytest.raises(errors.InvalidRequestError) as caught:
        shared.start_run(spec, seed=0, observer=run_observers.Recorder()).execute()
    assert caught.value.violations[0].field == "prompt"


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"promt_2": worker_pb2.Value(text="x")}, "extra_args.promt_2"),
        ({"eta": worker_pb2.Value(text="x")}, "extra_args.eta"),
        ({"generator": worker_pb2.Value(integer=1)}, "extra_args.generator"),
        ({"output_type": worker_pb2.Value(text="pil")}, "extra_args.output_type"),
        ({"return_dict": worker_pb2.Value(boolean=False)}, "extra_args.return_dict"),
        ({"callback_on_step_end": worker_pb2.Value(text="x")}, "extra_args.callback_on_step_end"),
        ({"height": worker_pb2.Value(integer=8)}, "extra_args.height"),
    ],
)
def test_argument_that_is_wrong_or_not_the_users_is_refused(
    shared: pipeline.SharedPipeline, extra: dict[str, worker_pb2.Value], field: str
) -> None:
    spec = worker_pb2.GenerationSpec(prompt="a red cat", extra_args=extra)
    with pytest.raises(errors.InvalidRequestError) as caught:
        shared.check(spec)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_exception_of_a_pipeline_comes_with_its_type_and_text() -> None:
    with pytest.raises(errors.PipelineError, match="raised KeyError: 'down_blocks'"):
        run(broken(KeyError("down_blocks")))


def test_exception_that_quotes_the_prompt_loses_its_text() -> None:
    with pytest.raises(errors.PipelineError) as caught:
        run(broken(RuntimeError("cannot draw a red cat")))
    assert "red cat" not in caught.value.message


def test_lack_of_memory_is_told_apart() -> None:
    with pytest.raises(errors.DeviceMemoryError):
        run(broken(torch.OutOfMemoryError("CUDA out of memory.")))


def test_fault_of_the_device_is_told_apart() -> None:
    with pytest.raises(runs.StickyDeviceError):
        run(broken(RuntimeError("CUDA error: device-side assert triggered")))


def test_next_run_after_a_failure_works(shared: pipeline.SharedPipeline) -> None:
    wanted = run(shared)
    with pytest.raises(errors.InvalidRequestError):
        run(shared, height=33)
    assert run(shared) == wanted


def test_real_lack_of_memory_fails_one_generation_only(
    shared: pipeline.SharedPipeline,
) -> None:
    wanted = run(shared)
    with pytest.raises(errors.DeviceMemoryError):
        # Latents of 2**44 numbers.
        run(shared, height=2**25, width=2**25)
    shared.self_test()
    assert run(shared) == wanted


def test_self_test_passes_on_a_sound_device(shared: pipeline.SharedPipeline) -> None:
    shared.self_test()


def test_self_test_fails_where_nothing_computes(
    shared: pipeline.SharedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ones(*_args: object, **_kwargs: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(runs.StickyDeviceError, match="does not compute"):
        shared.self_test()

"""Each pipeline of the zoo goes on from checkpoints of another copy of it, bit for bit."""

import functools

import pytest
import torch

import resumes
import zoo
import zoo_requests
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import checkpoint, pipeline

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

WITHOUT_STEPS = {"ltx_upsample"}
STEPS = 3

each_species = pytest.mark.parametrize(
    "name", [name for name in zoo.NAMES if name not in WITHOUT_STEPS]
)


def spec_of(name: str) -> worker_pb2.GenerationSpec:
    # Pixels as uint8 would hide small differences.
    output = worker_pb2.OutputOptions(type=worker_pb2.OUTPUT_TYPE_FLOAT)
    return zoo_requests.spec_of(zoo.shared(name), steps=STEPS, output=output)


@functools.cache
def recorded(name: str) -> resumes.Recorded:
    shared = pipeline.SharedPipeline.from_pipeline(zoo.shared(name).pipeline)
    return resumes.record(shared, spec_of(name))


@functools.cache
def other(name: str) -> pipeline.SharedPipeline:
    """A copy that has not seen the recorded run."""
    return pipeline.SharedPipeline.from_pipeline(zoo.build(name).pipeline)


@each_species
def test_goes_on_from_first_middle_and_last_boundary(name: str) -> None:
    for step in recorded(name).places:
        resumes.assert_resumes_exactly(other(name), spec_of(name), recorded(name), step)


@each_species
def test_capturing_changes_nothing(name: str) -> None:
    plain = zoo_requests.arrays_of_plain(
        zoo.call_plainly(zoo.shared(name), seed=resumes.SEED, steps=STEPS)
    )
    shared = pipeline.SharedPipeline.from_pipeline(zoo.shared(name).pipeline)
    spec = zoo_requests.spec_of(zoo.shared(name), steps=STEPS)
    found = zoo_requests.arrays_of_outputs(resumes.record(shared, spec).outcome.outputs)
    assert [each.tobytes() for each in found] == [each.tobytes() for each in plain]


def moved(name: str, step: int, fingerprint: str = "") -> bytes:
    """Return the checkpoint of a step with latents that are a little off."""
    original = checkpoint.decode(recorded(name).checkpoints[step])
    return checkpoint.encode(
        checkpoint.Checkpoint(
            step=original.step,
            fingerprint=fingerprint or original.fingerprint,
            spec_digest=original.spec_digest,
            seed=original.seed,
            weights_digest=original.weights_digest,
            class_name=original.class_name,
            body=original.body,
            tensors={key: _moved(key, tensor) for key, tensor in original.tensors.items()},
        )
    )


def middle(name: str) -> int:
    places = recorded(name).places
    return places[len(places) // 2]


@each_species
def test_result_depends_on_what_is_in_the_checkpoint(name: str) -> None:
    # With another fingerprint nobody expects the same bits, so that nothing is compared.
    data = moved(name, middle(name), fingerprint="f" * 64)
    resumed = resumes.resume(other(name), spec_of(name), data)
    assert resumed.outcome.resumed_from == middle(name)
    assert resumed.outcome.exactness == worker_pb2.EXACTNESS_CLOSE
    assert resumes.bits(resumed.outcome) != resumes.bits(recorded(name).outcome)


def test_what_does_not_fit_together_is_computed_anew() -> None:
    resumed = resumes.resume(other("sd15"), spec_of("sd15"), moved("sd15", middle("sd15")))
    assert resumed.outcome.exactness == worker_pb2.EXACTNESS_RESTARTED
    assert resumes.bits(resumed.outcome) == resumes.bits(recorded("sd15").outcome)


def _moved(name: str, tensor: torch.Tensor) -> torch.Tensor:
    is_output = ".steps." in name and ".tensors." in name
    return tensor + 1e-3 if is_output and tensor.is_floating_point() else tensor.clone()


def test_pipeline_without_steps_has_no_boundaries() -> None:
    (name,) = WITHOUT_STEPS
    assert not recorded(name).checkpoints

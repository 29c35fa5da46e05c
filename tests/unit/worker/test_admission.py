import pytest
from google.protobuf import duration_pb2, timestamp_pb2

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers
from kubediffusion_worker import admission, config, identity, testing

SPEC = worker_pb2.GenerationSpec(prompt="p")


def a_request(**fields: object) -> worker_pb2.SubmitGenerationRequest:
    given: dict[str, object] = {
        "caller": worker_pb2.Caller(engine_id="e", epoch=1),
        "request_id": "a",
        "spec": SPEC,
        **fields,
    }
    return worker_pb2.SubmitGenerationRequest(**given)  # type: ignore[arg-type] # by name


def test_a_request_becomes_a_stimulus() -> None:
    found = admission.submitted(a_request(priority=5, attempt=2), 100.0)
    assert found.key == identity.GenerationKey("e", "a")
    assert (found.attempt, found.priority, found.deadline) == (2, 5, None)
    assert found.digest == identifiers.spec_digest(SPEC)


def test_an_attempt_that_is_not_given_is_the_first() -> None:
    assert admission.submitted(a_request(), 100.0).attempt == 1


def test_a_deadline_is_meant_by_the_clock_on_the_wall() -> None:
    request = a_request(deadline=timestamp_pb2.Timestamp(seconds=1030))
    assert admission.submitted(request, 100.0, wall=1000.0).deadline == 130.0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": "a/b"}, "request_id"),
        ({"request_id": "../../etc/passwd"}, "request_id"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "x" * 129}, "request_id"),
        ({"caller": worker_pb2.Caller()}, "caller.engine_id"),
        ({"caller": worker_pb2.Caller(engine_id="e", instance="x" * 129)}, "caller.instance"),
        ({"spec": None}, "spec"),
        ({"priority": 1001}, "priority"),
    ],
)
def test_a_request_without_meaning_is_refused_with_its_field(
    fields: dict[str, object], field: str
) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        admission.submitted(a_request(**fields), 100.0)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_drain_has_the_usual_policy_and_budget_unless_it_says_otherwise() -> None:
    policy, budget = admission.drain_of(worker_pb2.DrainRequest(), 25.0)
    assert policy == worker_pb2.DRAIN_POLICY_FINISH_THEN_CHECKPOINT
    assert budget == 25.0


@pytest.mark.parametrize(("policy", "seconds"), [(9, 1), (1, -1), (1, 10**9)])
def test_a_drain_without_meaning_is_refused(policy: int, seconds: int) -> None:
    budget = duration_pb2.Duration(seconds=seconds)
    request = worker_pb2.DrainRequest(policy=policy, budget=budget)  # type: ignore[arg-type] # any number may come
    with pytest.raises(errors.InvalidRequestError):
        admission.drain_of(request, 25.0)


def test_the_work_is_steps_times_outputs() -> None:
    spec = worker_pb2.GenerationSpec(num_inference_steps=20, num_outputs=3)
    assert admission.work_of(spec).steps == 60
    assert admission.work_of(SPEC).steps == 0


def test_a_seed_that_is_not_given_follows_from_the_ids() -> None:
    key = identity.GenerationKey("e", "a")
    assert admission.seed_of(key, SPEC) == identifiers.derive_seed("e", "a")
    assert admission.seed_of(key, worker_pb2.GenerationSpec(seed=0)) == 0


def test_a_specification_is_checked_against_pipeline_and_limits() -> None:
    settings = config.WorkerConfig(
        model=testing.FAKE_MODEL, requests=config.RequestLimits(max_height=64)
    )
    spec = worker_pb2.GenerationSpec(prompt="p", height=128, model="another", num_frames=3)
    with pytest.raises(errors.InvalidRequestError) as caught:
        admission.check_spec(spec, settings, testing.FakePipeline())
    assert {violation.field for violation in caught.value.violations} == {
        "height",
        "model",
        "num_frames",
    }


def test_an_adapter_that_is_not_loaded_is_refused() -> None:
    settings = config.WorkerConfig(model=testing.FAKE_MODEL)
    spec = worker_pb2.GenerationSpec(prompt="p", adapters=[worker_pb2.AdapterUse(name="x")])
    with pytest.raises(errors.AdapterNotFoundError):
        admission.check_spec(spec, settings, testing.FakePipeline())

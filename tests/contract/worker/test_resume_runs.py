"""Which checkpoints a run goes on from, what it promises then, and what is left of it."""

import gc
import weakref

import pytest
import torch

import resumes
import run_observers
import zoo
import zoo_requests
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import checkpoint, pipeline, runs

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

STEPS = 3


@pytest.fixture(scope="module")
def shared() -> pipeline.SharedPipeline:
    return pipeline.SharedPipeline.from_pipeline(zoo.build("sd15").pipeline)


@pytest.fixture(scope="module")
def recorded(shared: pipeline.SharedPipeline) -> resumes.Recorded:
    return resumes.record(shared, spec())


def spec(**fields: object) -> worker_pb2.GenerationSpec:
    return zoo_requests.spec_of(zoo.shared("sd15"), steps=STEPS, **fields)


def start(
    shared: pipeline.SharedPipeline,
    data: bytes,
    *,
    request: worker_pb2.GenerationSpec | None = None,
    seed: int = resumes.SEED,
    recorder: run_observers.Recorder | None = None,
) -> runs.Run:
    return shared.start_run(
        spec() if request is None else request,
        seed=seed,
        observer=recorder or run_observers.Recorder(),
        checkpoint=data,
    )


# ---------------------------------------------------------------- what is refused


def test_checkpoint_of_another_prompt_is_refused(
    shared: pipeline.SharedPipeline, recorded: resumes.Recorded
) -> None:
    with pytest.raises(errors.InvalidCheckpointError, match="another request"):
        start(shared, recorded.checkpoints[1], request=spec(prompt="a blue dog"))


def test_checkpoint_of_another_seed_is_refused(
    shared: pipeline.SharedPipeline, recorded: resumes.Recorded
) -> None:
    with pytest.raises(errors.InvalidCheckpointError, match="another seed"):
        start(shared, recorded.checkpoints[1], seed=resumes.SEED + 1)


@pytest.mark.parametrize("name", ["sd15_unipc", "ddpm"])
def test_checkpoint_of_another_pipeline_is_refused_or_restarts(
    recorded: resumes.Recorded, name: str
) -> None:
    other = pipeline.SharedPipeline.from_pipeline(zoo.build(name).pipeline)
    if name == "sd15_unipc":  # The same weights, but another scheduler.
        resumed = resumes.resume(other, spec(), recorded.checkpoints[1])
        undisturbed = other.start_run(
            spec(), seed=resumes.SEED, observer=run_observers.Recorder()
        ).execute()
        assert resumed.outcome.exactness == worker_pb2.EXACTNESS_RESTARTED
        resumes.assert_same_bits(resumed.outcome, undisturbed)
    else:
        with pytest.raises(errors.InvalidCheckpointError, match="another model"):
            other.read_checkpoint(recorded.checkpoints[1])


def test_facts_of_a_checkpoint_are_those_of_its_run(
    shared: pipeline.SharedPipeline, recorded: resumes.Recorded
) -> None:
    facts = shared.read_checkpoint(recorded.checkpoints[2])
    assert (facts.step, facts.seed) == (2, resumes.SEED)
    assert facts.fingerprint == shared.fingerprint_for(spec())


# ---------------------------------------------------------------- what is promised


def test_checkpoint_of_another_machine_is_close(
    shared: pipeline.SharedPipeline, recorded: resumes.Recorded
) -> None:
    original = checkpoint.decode(recorded.checkpoints[1])
    foreign = checkpoint.Checkpoint(
        step=original.step,
        fingerprint="0" * 64,
        spec_digest=original.spec_digest,
        seed=original.seed,
        class_name=original.class_name,
        weights_digest=original.weights_digest,
        body=original.body,
        tensors={name: original.tensors[name] for name in original.tensors},
    )
    resumed = resumes.resume(shared, spec(), checkpoint.encode(foreign))
    assert resumed.recorder.resumptions == [(1, worker_pb2.EXACTNESS_CLOSE)]
    assert resumed.outcome.exactness == worker_pb2.EXACTNESS_CLOSE
    assert resumed.outcome.resumed_from == 1


def test_run_that_has_gone_on_can_be_handed_over_again(
    shared: pipeline.SharedPipeline, recorded: resumes.Recorded
) -> None:
    again = resumes.record(shared, spec(), checkpoint=recorded.checkpoints[1])
    assert sorted(again.checkpoints) == [1, 2]
    resumed = resumes.resume(shared, spec(), again.checkpoints[2])
    assert resumed.recorder.resumptions == [(2, resumes.EXACT)]
    resumes.assert_same_bits(resumed.outcome, recorded.outcome)


def test_checkpoint_in_the_second_output_brings_the_first_along(
    shared: pipeline.SharedPipeline,
) -> None:
    two = spec(num_outputs=2)
    both = resumes.record(shared, two)
    assert sorted(both.checkpoints) == [1, 2, 4, 5]
    resumed = resumes.resume(shared, two, both.checkpoints[5])
    assert [report.step for report in resumed.recorder.reports] == [6]
    assert [(report.step, report.total) for report in resumed.recorder.reports] == [(6, 6)]
    resumes.assert_same_bits(resumed.outcome, both.outcome)


# ---------------------------------------------------------------- where it can be taken


def test_run_can_be_saved_at_boundaries_alone(shared: pipeline.SharedPipeline) -> None:
    refusals: list[str] = []

    def capture(_number: int) -> None:
        with pytest.raises(runs.NotCapturableError) as refusal:
            run.capture()
        refusals.append(str(refusal.value))

    run = shared.start_run(
        spec(), seed=resumes.SEED, observer=run_observers.Recorder(at_seam=capture)
    )
    run.execute()
    assert set(refusals) == {"the run is not at a boundary"}


def test_draft_does_not_change_while_the_run_goes_on(
    shared: pipeline.SharedPipeline, recorded: resumes.Recorded
) -> None:
    early: list[tuple[runs.CheckpointDraft, bytes]] = []

    def capture(_number: int) -> None:
        draft = run.capture()
        early.append((draft, draft.to_bytes()))

    run = shared.start_run(
        spec(), seed=resumes.SEED, observer=run_observers.Recorder(at_boundary=capture)
    )
    run.execute()
    assert [draft.to_bytes() == data for draft, data in early] == [True, True]
    assert [data for _, data in early] == [recorded.checkpoints[1], recorded.checkpoints[2]]


# ---------------------------------------------------------------- what is left behind


def test_cancel_is_heard_while_a_run_catches_up(
    shared: pipeline.SharedPipeline, recorded: resumes.Recorded
) -> None:
    recorder = run_observers.Recorder(at_seam=lambda number: run.cancel() if number == 3 else None)
    run = start(shared, recorded.checkpoints[2], recorder=recorder)
    with pytest.raises(runs.RunCancelled):
        run.execute()
    assert not recorder.resumptions
    assert not recorder.reports
    resumes.assert_same_bits(
        resumes.resume(shared, spec(), recorded.checkpoints[2]).outcome, recorded.outcome
    )


def test_nothing_of_a_resumed_run_stays_in_memory(
    shared: pipeline.SharedPipeline, recorded: resumes.Recorded
) -> None:
    run = start(shared, recorded.checkpoints[1])
    watched = weakref.ref(run)
    run.execute()
    gc.collect()
    before = _tensors()
    del run
    gc.collect()
    assert watched() is None
    start(shared, recorded.checkpoints[1]).execute()
    gc.collect()
    assert _tensors() <= before


def _tensors() -> int:
    return sum(type(each) is torch.Tensor for each in gc.get_objects())

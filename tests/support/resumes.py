"""Checkpoints of real runs, and runs that go on from them, for tests."""

import dataclasses

import torch

import run_observers
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import pipeline, runs

SEED = 5

EXACT = worker_pb2.EXACTNESS_EXACT


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A run that was captured at each boundary, and what it made."""

    outcome: runs.RunOutcome
    checkpoints: dict[int, bytes]
    """By steps that were done."""

    @property
    def places(self) -> list[int]:
        """The first, the middle and the last step with a checkpoint."""
        steps = sorted(self.checkpoints)
        return sorted({steps[0], steps[len(steps) // 2], steps[-1]})


@dataclasses.dataclass(frozen=True)
class Resumed:
    """A run that went on from a checkpoint."""

    outcome: runs.RunOutcome
    recorder: run_observers.Recorder


def record(
    shared: pipeline.SharedPipeline,
    spec: worker_pb2.GenerationSpec,
    *,
    checkpoint: bytes | None = None,
) -> Recorded:
    """Runs to the end and captures each boundary on the way."""
    drafts: list[runs.CheckpointDraft] = []
    recorder = run_observers.Recorder(at_boundary=lambda _number: drafts.append(run.capture()))
    run = shared.start_run(spec, seed=SEED, observer=recorder, checkpoint=checkpoint)
    outcome = run.execute()
    return Recorded(outcome, {draft.step: draft.to_bytes() for draft in drafts})


def resume(
    shared: pipeline.SharedPipeline, spec: worker_pb2.GenerationSpec, checkpoint: bytes
) -> Resumed:
    """Goes on from a checkpoint, with global random generators that are anywhere."""
    torch.manual_seed(999)
    recorder = run_observers.Recorder()
    run = shared.start_run(spec, seed=SEED, observer=recorder, checkpoint=checkpoint)
    return Resumed(run.execute(), recorder)


def bits(outcome: runs.RunOutcome) -> list[tuple[object, ...]]:
    """Returns all that a run has made, to be compared."""
    return [
        (output.name, output.dtype, output.shape, output.seed, bytes(output.data))
        for output in outcome.outputs
    ]


def assert_same_bits(found: runs.RunOutcome, wanted: runs.RunOutcome) -> None:
    """Compares all outputs of two runs, without writing them out."""
    assert len(found.outputs) == len(wanted.outputs)
    assert [a == b for a, b in zip(bits(found), bits(wanted), strict=True)] == [True] * len(
        wanted.outputs
    )


def assert_resumes_exactly(
    shared: pipeline.SharedPipeline,
    spec: worker_pb2.GenerationSpec,
    recorded: Recorded,
    step: int,
) -> None:
    """Goes on from one checkpoint, which must give the same bits with the steps that are left."""
    resumed = resume(shared, spec, recorded.checkpoints[step])
    assert resumed.recorder.resumptions == [(step, EXACT)]
    assert [report.step for report in resumed.recorder.reports] == list(
        range(step + 1, recorded.outcome.steps + 1)
    )
    assert_same_bits(resumed.outcome, recorded.outcome)
    assert (resumed.outcome.resumed_from, resumed.outcome.exactness) == (step, EXACT)

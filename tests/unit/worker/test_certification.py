"""What a pipeline is certified for, by what goes wrong when it is tried."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import cast

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import certification, runs, testing


@dataclasses.dataclass
class Restarting:
    """A run that could not go on from its checkpoint."""

    run: runs.Run

    def __getattr__(self, name: str) -> object:
        return getattr(self.run, name)

    def execute(self) -> runs.RunOutcome:
        outcome = self.run.execute()
        return dataclasses.replace(
            outcome, resumed_from=0, exactness=worker_pb2.EXACTNESS_RESTARTED
        )


@dataclasses.dataclass
class Subject:
    """A fake pipeline with faults."""

    pipeline: testing.FakePipeline = dataclasses.field(default_factory=testing.FakePipeline)
    sizes: tuple[int, ...] = (7, 8)
    """7 is refused."""
    plain_differs: bool = False
    watched_differs: bool = False
    resumed_differs: bool = False
    cannot_go_on: bool = False
    is_spoilt_by_cancel: bool = False
    steps: int = 4
    plain_calls: int = 0
    tried: list[int] = dataclasses.field(default_factory=list)
    """Steps from which runs went on."""

    def smallest_requests(self) -> Iterator[worker_pb2.GenerationSpec]:
        for size in self.sizes:
            yield worker_pb2.GenerationSpec(height=size, width=8, num_inference_steps=self.steps)

    def compute_plainly(
        self, spec: worker_pb2.GenerationSpec, *, seed: int
    ) -> tuple[runs.OutputData, ...]:
        if spec.height == 7:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        self.plain_calls += 1
        return self._made(spec, seed + self.plain_calls * self.plain_differs)

    def start_run(
        self,
        spec: worker_pb2.GenerationSpec,
        *,
        seed: int,
        observer: runs.RunObserver,
        checkpoint: bytes | None = None,
    ) -> runs.Run:
        if checkpoint is not None:
            self.tried.append(self.pipeline.read_checkpoint(checkpoint).step)
        is_spoilt = self.watched_differs or (checkpoint is not None and self.resumed_differs)
        if self.is_spoilt_by_cancel and isinstance(observer, certification._Leaving):
            self.watched_differs = True
        run = self.pipeline.start_run(
            spec, seed=seed + is_spoilt, observer=observer, checkpoint=checkpoint
        )
        return (
            cast("runs.Run", Restarting(run))
            if checkpoint is not None and self.cannot_go_on
            else run
        )

    def _made(self, spec: worker_pb2.GenerationSpec, seed: int) -> tuple[runs.OutputData, ...]:
        observer = certification._Silent()
        run = self.pipeline.start_run(spec, seed=seed, observer=observer)
        return run.execute().outputs


def test_a_pipeline_that_agrees_with_itself_is_exact() -> None:
    subject = Subject()
    certificate = certification.certify(subject)
    assert certificate.resume == worker_pb2.RESUME_CAPABILITY_EXACT
    assert subject.tried == [1, 2, 3]


def test_sizes_that_are_refused_are_passed_over() -> None:
    assert certification.certify(Subject(sizes=(7,))).resume == (
        worker_pb2.RESUME_CAPABILITY_RESTART
    )


def test_a_pipeline_that_gives_other_bits_each_time_is_close() -> None:
    certificate = certification.certify(Subject(plain_differs=True))
    assert certificate.resume == worker_pb2.RESUME_CAPABILITY_CLOSE


def test_a_watched_run_with_other_bits_is_never_resumed() -> None:
    certificate = certification.certify(Subject(watched_differs=True))
    assert certificate.resume == worker_pb2.RESUME_CAPABILITY_RESTART
    assert "watched" in certificate.reason


def test_a_resumed_run_with_other_bits_is_never_resumed() -> None:
    certificate = certification.certify(Subject(resumed_differs=True))
    assert certificate.resume == worker_pb2.RESUME_CAPABILITY_RESTART
    assert "after step 1" in certificate.reason


def test_a_run_that_begins_anew_is_no_resumed_one() -> None:
    certificate = certification.certify(Subject(cannot_go_on=True))
    assert certificate.resume == worker_pb2.RESUME_CAPABILITY_RESTART
    assert "could not go on after step 1" in certificate.reason


def test_what_a_cancelled_run_leaves_behind_is_found() -> None:
    certificate = certification.certify(Subject(is_spoilt_by_cancel=True))
    assert certificate.resume == worker_pb2.RESUME_CAPABILITY_RESTART
    assert "cancelled" in certificate.reason


def test_a_pipeline_without_a_loop_is_restarted() -> None:
    certificate = certification.certify(Subject(steps=1))
    assert certificate.resume == worker_pb2.RESUME_CAPABILITY_RESTART
    assert "no loop" in certificate.reason


def test_a_pipeline_that_raises_when_watched_is_restarted() -> None:
    subject = Subject()
    subject.pipeline.adapters.is_supported = False

    def refuse(*args: object, **kwargs: object) -> runs.Run:
        raise errors.PipelineError("the pipeline raised TypeError")

    subject.start_run = refuse  # type: ignore[method-assign]
    certificate = certification.certify(subject)
    assert certificate.reason == "a trial failed: PIPELINE_ERROR"


def test_without_time_no_boundary_is_tried() -> None:
    subject = Subject()
    clock = itertools.count(0, 1000)
    certificate = certification.certify(subject, clock=lambda: float(next(clock)))
    assert subject.tried == []
    assert certificate.resume == worker_pb2.RESUME_CAPABILITY_RESTART

"""Finds out what resuming gives for a pipeline, by trying it in small.

A worker publishes what it has measured: that its own way of running the pipeline gives the bits
of plain diffusers, that a run which goes on from a checkpoint does too, and that a cancelled run
leaves nothing behind. A pipeline that fails is served with less, never wrongly.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import runs

SEED = 1234

BUDGET_SECONDS = 120.0
"""From which on no further boundary is tried; models that large take seconds for a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What resuming gives."""

    resume: worker_pb2.ResumeCapability
    reason: str
    """What was found, in words."""


ASSUMED = Certificate(resume=worker_pb2.RESUME_CAPABILITY_EXACT, reason="nothing was tried")
"""Of pipelines that are shared without a trial, for example in tests of resuming itself."""

UNTRIED = Certificate(resume=worker_pb2.RESUME_CAPABILITY_RESTART, reason="it was not to be tried")


class Subject(Protocol):
    """What is tried."""

    def smallest_requests(self) -> Iterator[worker_pb2.GenerationSpec]:
        """Yields requests to try, the cheapest first."""
        ...

    def compute_plainly(
        self, spec: worker_pb2.GenerationSpec, *, seed: int
    ) -> tuple[runs.OutputData, ...]:
        """Computes as a user of diffusers would; raises whatever the pipeline does."""
        ...

    def start_run(
        self,
        spec: worker_pb2.GenerationSpec,
        *,
        seed: int,
        observer: runs.RunObserver,
        checkpoint: bytes | None = None,
    ) -> runs.Run:
        """See `runs.LoadedPipeline`."""
        ...


def certify(subject: Subject, *, clock: Callable[[], float] = time.monotonic) -> Certificate:
    """Tries a pipeline; on the compute thread, before the first request.

    Raises:
        runs.StickyDeviceError: The device does not work.
    """
    until = clock() + BUDGET_SECONDS
    found = _smallest(subject)
    if found is None:
        return _restart("no small request could be made up to try it with")
    spec, plain = found
    try:
        return _try(subject, spec, plain, lambda: clock() < until)
    except errors.KubediffusionError as error:
        return _restart(f"a trial failed: {error.reason}")


def _smallest(
    subject: Subject,
) -> tuple[worker_pb2.GenerationSpec, tuple[runs.OutputData, ...]] | None:
    for spec in subject.smallest_requests():
        try:
            return spec, subject.compute_plainly(spec, seed=SEED)
        except Exception:  # noqa: BLE001  # pipelines refuse sizes with any error there is
            continue
    return None


def _try(
    subject: Subject,
    spec: worker_pb2.GenerationSpec,
    plain: Sequence[runs.OutputData],
    has_time: Callable[[], bool],
) -> Certificate:
    observer = _Saving()
    outcome = _run(subject, spec, observer)
    if not _equal(outcome.outputs, plain):
        if not _equal(subject.compute_plainly(spec, seed=SEED), plain):
            return Certificate(
                resume=worker_pb2.RESUME_CAPABILITY_CLOSE,
                reason="plain diffusers itself gives other bits each time",
            )
        return _restart("a run that is watched gives other bits than plain diffusers")
    if not observer.saved:
        return _restart(observer.problem or "it has no loop of steps")
    tried = 0
    for step, checkpoint in observer.chosen():
        if not has_time():
            break
        tried += 1
        resumed = _run(subject, spec, _Saving(), checkpoint)
        if resumed.exactness != worker_pb2.EXACTNESS_EXACT:
            return _restart(f"a run could not go on after step {step}")
        if not _equal(resumed.outputs, plain):
            return _restart(f"a run that went on after step {step} gave other bits")
    if not tried:
        return _restart(f"a trial takes more than {BUDGET_SECONDS:.0f} s")
    if has_time() and not _is_clean_after_cancel(subject, spec, plain):
        return _restart("a cancelled run left something behind")
    return Certificate(
        resume=worker_pb2.RESUME_CAPABILITY_EXACT,
        reason="plain, watched, resumed and cancelled runs agree bit for bit",
    )


def _is_clean_after_cancel(
    subject: Subject, spec: worker_pb2.GenerationSpec, plain: Sequence[runs.OutputData]
) -> bool:
    with contextlib.suppress(runs.RunCancelled):
        _run(subject, spec, _Leaving())
    return _equal(_run(subject, spec, _Saving()).outputs, plain)


def _run(
    subject: Subject,
    spec: worker_pb2.GenerationSpec,
    observer: "_Silent",
    checkpoint: bytes | None = None,
) -> runs.RunOutcome:
    observer.run = subject.start_run(spec, seed=SEED, observer=observer, checkpoint=checkpoint)
    return observer.run.execute()


def _equal(found: Sequence[runs.OutputData], wanted: Sequence[runs.OutputData]) -> bool:
    return len(found) == len(wanted) and all(
        (one.dtype, one.shape) == (other.dtype, other.shape)
        and bytes(one.data) == bytes(other.data)
        for one, other in zip(found, wanted, strict=True)
    )


def _restart(reason: str) -> Certificate:
    return Certificate(resume=worker_pb2.RESUME_CAPABILITY_RESTART, reason=reason)


class _Silent:
    """Follows a run and tells nobody."""

    run: runs.Run

    def step_done(self, report: runs.StepReport) -> None:
        pass

    def seam(self) -> None:
        pass

    def boundary(self) -> None:
        pass

    def resumed(self, step: int, exactness: worker_pb2.Exactness) -> None:
        pass

    def wants_preview(self) -> bool:
        return False

    def preview(self, picture: runs.PreviewData) -> None:
        pass


class _Saving(_Silent):
    """Saves the run at every boundary."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, bytes]] = []
        self.problem = ""

    def boundary(self) -> None:
        try:
            draft = self.run.capture()
            self.saved.append((draft.step, draft.to_bytes()))
        except runs.NotCapturableError as error:
            self.problem = f"its state cannot be saved: {error}"

    def chosen(self) -> list[tuple[int, bytes]]:
        """Returns what was saved first, in the middle and last."""
        last = len(self.saved) - 1
        return [self.saved[index] for index in sorted({last // 2, last, 0})]


class _Leaving(_Silent):
    """Cancels the run at its first boundary."""

    def boundary(self) -> None:
        self.run.cancel()

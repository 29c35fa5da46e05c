"""P3: what step control adds to each denoising step, without checkpoints and with them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Sequence

import bench_worker
import figures
import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import runs

_STEPS = 400
_STEPS_PER_CHECKPOINT = 10
_POLICY_SECONDS = 2.0


class _Observer:
    """Follows a run as the worker does, without an event loop to tell."""

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


class _Saver(_Observer):
    """Captures checkpoints, and leaves writing them to others."""

    def __init__(self) -> None:
        self.run: runs.Run | None = None
        self._boundaries = 0

    def boundary(self) -> None:
        self._boundaries += 1
        if self.run is not None and self._boundaries % _STEPS_PER_CHECKPOINT == 0:
            self.run.capture()


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Runs a pipeline with a denoiser that does nothing, plain and controlled, in turns."""
    plain_pipeline = bench_worker.sleeping_pipeline()
    shared = bench_worker.shared_pipeline()
    spec = worker_pb2.GenerationSpec(prompt="noise", height=8, width=8, num_inference_steps=_STEPS)
    spec.extra_args["step_seconds"].number = 0.0

    def plain() -> float:
        generator = torch.Generator("cpu").manual_seed(1)
        started = time.perf_counter()
        plain_pipeline(
            height=8, width=8, num_inference_steps=_STEPS, step_seconds=0.0, generator=generator
        )
        return time.perf_counter() - started

    def controlled() -> float:
        run = shared.start_run(spec, seed=1, observer=_Observer())
        started = time.perf_counter()
        run.execute()
        return time.perf_counter() - started

    def saved() -> float:
        saver = _Saver()
        saver.run = shared.start_run(spec, seed=1, observer=saver)
        started = time.perf_counter()
        saver.run.execute()
        return time.perf_counter() - started

    with_checkpoints, with_control, without = figures.in_turns(
        [saved, controlled, plain], settings.rounds * 2
    )
    checkpoints = (_STEPS - 1) // _STEPS_PER_CHECKPOINT
    capture = max(0.0, figures.median_difference(with_checkpoints, with_control)) / checkpoints
    return [
        figures.Figure(
            row="P3",
            what=f"step control, per step over {_STEPS} steps, forks and outputs included",
            value=1e6 * figures.median_difference(with_control, without) / _STEPS,
            unit="us",
            goal=70,
            baseline=f"the loop alone {1e6 * statistics.median(without) / _STEPS:.0f} us a step",
            samples=len(without),
        ),
        figures.Figure(
            row="P3",
            what="step control and checkpoints by policy, per step of 20 ms",
            value=1e6
            * (
                figures.median_difference(with_control, without) / _STEPS
                + capture * 0.02 / _POLICY_SECONDS
            ),
            unit="us",
            goal=1000.0,  # 1 % of a step of 100 ms
            baseline=f"{1e6 * capture:.0f} us a checkpoint, one each {_POLICY_SECONDS:.0f} s",
            samples=len(without),
        ),
    ]

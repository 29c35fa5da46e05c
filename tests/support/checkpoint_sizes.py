# diffusers exports lazily, and its annotations refuse what its classes take.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false
# ruff: noqa: RUF001  # The sign of multiplication is what the page has, too.
"""How large the checkpoints of well-known models are, measured without their weights.

`python tests/support/checkpoint_sizes.py` prints the table of docs/reference/checkpoint-format.md.
A loop with a model's latents and scheduler, but a denoiser that answers with zeros, runs 10 of 20
steps and is captured; what a checkpoint holds depends on nothing else. Pixels are not made.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import diffusers
import torch

import run_observers
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import pipeline, runs

STEPS = 20
CAPTURED_AFTER = 10

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}

DIFFUSION: Mapping[str, Callable[[], Any]] = {
    "Euler": lambda: diffusers.EulerDiscreteScheduler(**_BETAS),
    "DPM++ 2M": lambda: diffusers.DPMSolverMultistepScheduler(**_BETAS),
    "UniPC": lambda: diffusers.UniPCMultistepScheduler(**_BETAS),
}
FLOW: Mapping[str, Callable[[], Any]] = {
    "Euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
    "DPM++ 2M": lambda: diffusers.DPMSolverMultistepScheduler(**_FLOW),
    "UniPC": lambda: diffusers.UniPCMultistepScheduler(**_FLOW),
}
SOLVERS = ("Euler", "DPM++ 2M", "UniPC")

Model = tuple[str, tuple[int, ...], Mapping[str, Callable[[], Any]]]

IMAGE_MODELS: tuple[Model, ...] = (
    ("Stable Diffusion 1.5, 512 × 512", (1, 4, 64, 64), DIFFUSION),
    ("SDXL, 1024 × 1024", (1, 4, 128, 128), DIFFUSION),
    ("SD 3.5, 1024 × 1024", (1, 16, 128, 128), FLOW),
    ("FLUX.1, 1024 × 1024", (1, 4096, 64), FLOW),
    ("FLUX.2, 1024 × 1024", (1, 4096, 128), FLOW),
    ("Qwen-Image, 1328 × 1328", (1, 6889, 64), FLOW),
)
VIDEO_MODELS: tuple[Model, ...] = (
    ("Wan 2.1, 832 × 480, 81 frames", (1, 16, 21, 60, 104), FLOW),
    ("Wan 2.1, 1280 × 720, 81 frames", (1, 16, 21, 90, 160), FLOW),
    ("HunyuanVideo, 1280 × 720, 129 frames", (1, 16, 33, 90, 160), FLOW),
)


class ZeroDenoiser(diffusers.ModelMixin):
    """Predicts zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.zeros_like(sample),)


class LatentLoop(diffusers.DiffusionPipeline):
    """The denoising loop of any model, without the rest."""

    def __init__(self, denoiser: ZeroDenoiser, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        self.shape: tuple[int, ...] = ()
        self.latents_dtype = torch.float32

    @torch.no_grad()
    def __call__(self, num_inference_steps: int = STEPS, generator: Any = None) -> Any:
        latents = torch.randn(self.shape, generator=generator).to(self.latents_dtype)
        self.scheduler.set_timesteps(num_inference_steps)
        for timestep in self.scheduler.timesteps:
            (prediction,) = self.denoiser(latents)
            latents = self.scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return diffusers.ImagePipelineOutput(images=latents.float())


def size(shape: tuple[int, ...], scheduler: Any, dtype: torch.dtype) -> int:
    """Returns the bytes of a checkpoint in the middle of a run."""
    loop = LatentLoop(ZeroDenoiser(), scheduler)
    loop.shape, loop.latents_dtype = shape, dtype
    drafts: list[runs.CheckpointDraft] = []

    def capture(number: int) -> None:
        if number == CAPTURED_AFTER:
            drafts.append(run.capture())
            run.cancel()

    shared = pipeline.SharedPipeline.from_pipeline(loop)
    spec = worker_pb2.GenerationSpec(num_inference_steps=STEPS)
    run = shared.start_run(spec, seed=0, observer=run_observers.Recorder(at_boundary=capture))
    with contextlib.suppress(runs.RunCancelled):
        run.execute()
    return len(drafts[0].to_bytes())


def rows(models: Iterable[Model]) -> Iterable[str]:
    """Return a line of the table for each model, in MB of 1 000 000 bytes."""
    for name, shape, solvers in models:
        cells = [
            " / ".join(
                f"{size(shape, solvers[solver](), dtype) / 1e6:.2f}"
                for dtype in (torch.float32, torch.bfloat16)
            )
            for solver in SOLVERS
        ]
        yield f"| {name} | {' × '.join(map(str, shape[1:]))} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in rows(IMAGE_MODELS + VIDEO_MODELS):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

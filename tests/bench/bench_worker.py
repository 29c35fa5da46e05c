"""A worker process with a real diffusers pipeline that takes its time and draws noise.

The denoiser is a sleep and the picture is cheap, so that what remains is the cost of serving.
"""

import time

import diffusers
import numpy
import PIL.Image
import torch
from diffusers.models import modeling_utils
from diffusers.pipelines import pipeline_utils

from kubediffusion_worker import __main__ as program
from kubediffusion_worker import pipeline


class SleepingModel(modeling_utils.ModelMixin):
    """Predicts nothing, after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, sample: torch.Tensor, seconds: float) -> torch.Tensor:
        """Sleeps and returns the sample."""
        time.sleep(seconds)
        return sample


class SleepingPipeline(pipeline_utils.DiffusionPipeline):
    """Sleeps in each step, then draws noise from the seed."""

    model: SleepingModel
    scheduler: diffusers.DDIMScheduler

    def __init__(self, model: SleepingModel, scheduler: diffusers.DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(model=model, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str = "",
        height: int = 64,
        width: int = 64,
        num_inference_steps: int = 10,
        step_seconds: float = 0.01,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> pipeline_utils.ImagePipelineOutput:
        """Returns one image of noise."""
        latents = torch.randn(1, 4, 8, 8, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for timestep in self.scheduler.timesteps.tolist():
            noise = self.model(latents, step_seconds)
            (latents, *_) = self.scheduler.step(noise, timestep, latents, return_dict=False)
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        image = PIL.Image.fromarray(numpy.asarray(pixels))
        return pipeline_utils.ImagePipelineOutput(images=[image])


def sleeping_pipeline() -> SleepingPipeline:
    """Returns a new pipeline."""
    made = SleepingPipeline(SleepingModel(), diffusers.DDIMScheduler())
    made.set_progress_bar_config(disable=True)
    return made


def shared_pipeline() -> pipeline.SharedPipeline:
    """Returns what a worker serves."""
    return pipeline.SharedPipeline.from_pipeline(sleeping_pipeline(), name="sleeping")


if __name__ == "__main__":
    program.main(load=lambda _config: shared_pipeline())

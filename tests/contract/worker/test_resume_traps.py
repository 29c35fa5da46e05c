"""What once made a resumed run differ by a few bits; each test fails without its remedy."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

import resumes
import run_observers
import zoo
import zoo_parts
import zoo_requests
import zoo_unet
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import pipeline, runs
from zoo_specimen import Specimen

# diffusers exports lazily, and its annotations refuse what its classes take.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportCallIssue=false

pytestmark = [
    pytest.mark.filterwarnings(each)
    for each in (
        *zoo.FOREIGN_WARNINGS,
        # Of solvers that the zoo has not, and what they are made with.
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore:Should have ta>=t0:UserWarning",
    )
]

FLOAT = worker_pb2.OutputOptions(type=worker_pb2.OUTPUT_TYPE_FLOAT)


def assert_all_boundaries_resume(build: Callable[[], Specimen], *, steps: int = 3) -> None:
    """Records with one copy of a pipeline, and goes on with another one, at each boundary."""
    specimen = build()
    spec = zoo_requests.spec_of(specimen, steps=steps, output=FLOAT)
    recorded = resumes.record(pipeline.SharedPipeline.from_pipeline(specimen.pipeline), spec)
    other = pipeline.SharedPipeline.from_pipeline(build().pipeline)
    assert recorded.checkpoints
    for step in recorded.checkpoints:
        resumes.assert_resumes_exactly(other, spec, recorded, step)


def quietly(build: Callable[[], Specimen]) -> Callable[[], Specimen]:
    """Builds without what diffusers warns of when its own classes are put together."""

    def built() -> Specimen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build()

    return built


def of_zoo(name: str) -> Callable[[], Specimen]:
    return functools.partial(zoo.build, name)


def sd_with(scheduler: Callable[[], object]) -> Callable[[], Specimen]:
    def build() -> Specimen:
        parts = zoo_unet.sd_parts(scheduler=scheduler())
        arguments = {"prompt": "a red cat", "guidance_scale": 5.0, "height": 32, "width": 32}
        return Specimen(
            pipeline=diffusers.StableDiffusionPipeline(**parts), arguments=dict(arguments)
        )

    return quietly(build)


# ---------------------------------------------------------------- tensors and schedulers


def test_memory_layout_of_latents_is_state() -> None:
    assert_all_boundaries_resume(of_zoo("sd_img2img"), steps=4)


def test_history_of_a_solver_is_state_in_a_new_process() -> None:
    # `this_order` and `lower_order_nums` are missing in a scheduler that has never stepped.
    assert_all_boundaries_resume(of_zoo("sd15_unipc"), steps=4)


def test_solver_that_was_used_before_leaves_nothing_in_checkpoints() -> None:
    # What it keeps from then would pass for what a new one has, and be left out.
    specimen = zoo.build("sd15_unipc")
    used = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    zoo.call_plainly(specimen, steps=5)
    spec = zoo_requests.spec_of(specimen, steps=4, output=FLOAT)
    recorded = resumes.record(used, spec)
    new = pipeline.SharedPipeline.from_pipeline(zoo.build("sd15_unipc").pipeline)
    for step in recorded.checkpoints:
        resumes.assert_resumes_exactly(new, spec, recorded, step)


def test_configuration_corrected_by_the_pipeline_is_kept() -> None:
    # The steps_offset of 0 becomes 1 when the pipeline is made, not in the scheduler's class.
    specimen = zoo.build("sd15")
    spec = zoo_requests.spec_of(specimen, steps=3)
    recorded = resumes.record(pipeline.SharedPipeline.from_pipeline(specimen.pipeline), spec)
    plain = zoo.call_plainly(zoo.build("sd15"), seed=resumes.SEED, steps=3)
    other = pipeline.SharedPipeline.from_pipeline(zoo.build("sd15").pipeline)
    resumed = resumes.resume(other, spec, recorded.checkpoints[2])
    (wanted,) = zoo_requests.arrays_of_plain(plain)
    (found,) = zoo_requests.arrays_of_outputs(resumed.outcome.outputs)
    assert found.tobytes() == wanted.tobytes()


def test_scheduler_swapped_by_its_owner_is_the_one_that_goes_on() -> None:
    def build() -> Specimen:
        specimen = zoo.build("sd15")
        specimen.pipeline.scheduler = diffusers.DEISMultistepScheduler.from_config(
            specimen.pipeline.scheduler.config  # pyright: ignore[reportAttributeAccessIssue]  # of this pipeline
        )
        return specimen

    assert_all_boundaries_resume(quietly(build))


def test_solver_of_second_order_returns_other_classes_in_its_second_half() -> None:
    scheduler = functools.partial(diffusers.KDPM2AncestralDiscreteScheduler, **zoo_parts.SD_BETAS)
    assert_all_boundaries_resume(sd_with(scheduler))


@pytest.mark.parametrize("seed", [None, 7])
def test_tree_of_noise_is_made_again(seed: int | None) -> None:
    pytest.importorskip("torchsde")
    scheduler = functools.partial(
        diffusers.DPMSolverSDEScheduler, noise_sampler_seed=seed, **zoo_parts.SD_BETAS
    )
    assert_all_boundaries_resume(sd_with(scheduler))


def test_history_that_moves_within_its_list_is_kept_as_it_was() -> None:
    scheduler = functools.partial(diffusers.DPMSolverMultistepScheduler, **zoo_parts.SD_BETAS)
    assert_all_boundaries_resume(sd_with(scheduler), steps=4)


# ---------------------------------------------------------------- randomness


def test_noise_from_the_global_generator_goes_on() -> None:
    assert_all_boundaries_resume(of_zoo("flux_stochastic"))


def test_noise_from_the_request_generator_goes_on() -> None:
    scheduler = functools.partial(diffusers.EulerAncestralDiscreteScheduler, **zoo_parts.SD_BETAS)
    assert_all_boundaries_resume(sd_with(scheduler))


def test_each_output_has_a_generator_of_its_own() -> None:
    specimen = zoo.build("sd_img2img")  # Its picture is drawn from a distribution.
    spec = zoo_requests.spec_of(specimen, steps=4, output=FLOAT, num_outputs=2)
    recorded = resumes.record(pipeline.SharedPipeline.from_pipeline(specimen.pipeline), spec)
    other = pipeline.SharedPipeline.from_pipeline(zoo.build("sd_img2img").pipeline)
    for step in recorded.places:
        resumes.assert_resumes_exactly(other, spec, recorded, step)
    alone = zoo_requests.spec_of(specimen, steps=4, output=FLOAT)
    second = other.start_run(alone, seed=resumes.SEED + 1, observer=run_observers.Recorder())
    assert resumes.bits(second.execute()) == resumes.bits(recorded.outcome)[1:]


# ---------------------------------------------------------------- loops


def test_iteration_of_two_schedulers_ends_after_the_second() -> None:
    assert_all_boundaries_resume(of_zoo("ltx2"))


def test_result_of_an_earlier_loop_of_the_same_scheduler_is_kept() -> None:
    assert_all_boundaries_resume(of_zoo("helios"), steps=2)


def test_schedulers_copied_by_the_pipeline_go_on_each_by_itself() -> None:
    assert_all_boundaries_resume(of_zoo("skyreels_df"), steps=2)


def test_pipelines_within_a_pipeline_are_followed() -> None:
    assert_all_boundaries_resume(of_zoo("kandinsky_combined"), steps=2)


def test_several_steps_of_one_iteration_are_all_kept() -> None:
    def build() -> Specimen:
        # Wide enough for three views, each with a step of its own.
        views = {"prompt": "a red cat", "guidance_scale": 5.0, "height": 32, "width": 640}
        parts = zoo_unet.sd_parts()
        return Specimen(
            pipeline=diffusers.StableDiffusionPanoramaPipeline(**parts), arguments=dict(views)
        )

    specimen = quietly(build)()
    spec = zoo_requests.spec_of(specimen, steps=2, output=FLOAT)
    shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    drafts: list[runs.CheckpointDraft] = []
    recorder = run_observers.Recorder(at_boundary=lambda _number: drafts.append(run.capture()))
    run = shared.start_run(spec, seed=resumes.SEED, observer=recorder)
    wanted = run.execute()
    assert [draft.step for draft in drafts] == [1, 1, 1, 2, 2]
    for number, draft in enumerate(drafts):
        resumed = resumes.resume(shared, spec, draft.to_bytes())
        resumes.assert_same_bits(resumed.outcome, wanted)
        # Within a later iteration, the views that are left need the one before: it restarts.
        assert number > 2 or resumed.recorder.resumptions == [(1, resumes.EXACT)]


# ---------------------------------------------------------------- beside the loop


def test_momentum_of_a_guider_is_state() -> None:
    assert_all_boundaries_resume(of_zoo("hunyuan_video15"), steps=4)


def with_first_block_cache() -> Specimen:
    specimen = zoo.build("flux")
    parts = specimen.pipeline.components
    config = {**parts["transformer"].config, "num_layers": 3, "num_single_layers": 2}
    zoo_parts.seeded()
    transformer = zoo_parts.frozen(diffusers.FluxTransformer2DModel.from_config(config))
    # Far above what changes between steps, so that what was kept is what is used.
    transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=10.0))
    specimen.pipeline.register_modules(transformer=transformer)
    return specimen


def test_states_of_step_caches_are_state() -> None:
    assert_all_boundaries_resume(quietly(with_first_block_cache), steps=4)


def test_call_that_fills_a_cache_of_keys_and_values_is_made_again() -> None:
    assert_all_boundaries_resume(of_zoo("flux2_klein_kv"))


# ---------------------------------------------------------------- pipelines that nobody listed


class _OwnLoop(diffusers.StableDiffusionPipeline):
    """A loop of its own, around a method that subclasses vary."""

    scheduler: Any  # what all schedulers have in common has no class
    unet: Any
    vae: Any
    image_processor: Any

    @torch.no_grad()
    def __call__(  # type: ignore[override]  # a smaller call
        self,
        prompt: str,
        num_inference_steps: int = 3,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Any:
        embeddings, _ = self.encode_prompt(prompt, self._execution_device, 1, False)
        self.scheduler.set_timesteps(num_inference_steps)
        latents = torch.randn(1, 4, 16, 16, generator=generator)
        latents = self.denoise(latents, embeddings, generator)
        image = self.vae.decode(latents / 4.0, return_dict=False)[0]
        pictures = self.image_processor.postprocess(image, output_type=output_type)
        return diffusers.pipelines.ImagePipelineOutput(images=pictures)

    def denoise(
        self, latents: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        raise NotImplementedError

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, embeddings: torch.Tensor
    ) -> torch.Tensor:
        scaled = self.scheduler.scale_model_input(latents, timestep)
        return self.unet(scaled, timestep, embeddings, return_dict=False)[0]


def own(kind: type[_OwnLoop]) -> Callable[[], Specimen]:
    return quietly(
        lambda: Specimen(pipeline=kind(**zoo_unet.sd_parts()), arguments={"prompt": "a red cat"})
    )


class _ChangesWhatItGets(_OwnLoop):
    def denoise(
        self, latents: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        for timestep in self.scheduler.timesteps:
            noise = self.predict(latents, timestep, embeddings)
            latents = self.scheduler.step(noise, timestep, latents).prev_sample
            latents.mul_(0.9)
        return latents


def test_output_changed_in_place_by_the_pipeline_is_kept_as_it_was_returned() -> None:
    assert_all_boundaries_resume(own(_ChangesWhatItGets))


class _DrawsBetweenSteps(_OwnLoop):
    def denoise(
        self, latents: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        for timestep in self.scheduler.timesteps:
            noise = self.predict(latents, timestep, embeddings)
            latents = self.scheduler.step(noise, timestep, latents, eta=1.0, generator=generator)[
                0
            ]
            latents = latents + 0.1 * torch.randn(latents.shape, generator=generator)
        return latents


def test_noise_drawn_between_a_step_and_the_boundary_is_drawn_again() -> None:
    assert_all_boundaries_resume(own(_DrawsBetweenSteps))


class _Repeats(_OwnLoop):
    def denoise(
        self, latents: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        found = []
        for number in range(2):
            now = latents + number
            for timestep in self.scheduler.timesteps:
                noise = self.predict(now, timestep, embeddings)
                now = self.scheduler.step(noise, timestep, now)["prev_sample"]
            found.append(now * 0.5)
        return found[0] + found[1]


def test_result_of_a_loop_over_the_same_timesteps_is_kept() -> None:
    assert_all_boundaries_resume(own(_Repeats), steps=2)


class _EncodesInTheLoop(_OwnLoop):
    def denoise(
        self, latents: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        for number, timestep in enumerate(self.scheduler.timesteps):
            if number == 1:
                embeddings, _ = self.encode_prompt("a dog", self._execution_device, 1, False)
            noise = self.predict(latents, timestep, embeddings)
            (latents,) = self.scheduler.step(noise, timestep, latents, return_dict=False)[:1]
        return latents


def test_text_encoded_in_the_middle_of_a_loop_is_encoded_again() -> None:
    assert_all_boundaries_resume(own(_EncodesInTheLoop), steps=4)


class _KeepsEarlierNoise(_OwnLoop):
    def denoise(
        self, latents: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        before = torch.zeros_like(latents)
        for timestep in self.scheduler.timesteps:
            noise = self.predict(latents, timestep, embeddings)
            before = 0.5 * before + noise
            latents = self.scheduler.step(before, timestep, latents)[0]
        return latents


def test_what_a_pipeline_carries_from_step_to_step_itself_is_never_made_up() -> None:
    specimen = own(_KeepsEarlierNoise)()
    spec = zoo_requests.spec_of(specimen, steps=3, output=FLOAT)
    recorded = resumes.record(pipeline.SharedPipeline.from_pipeline(specimen.pipeline), spec)
    other = pipeline.SharedPipeline.from_pipeline(own(_KeepsEarlierNoise)().pipeline)
    for data in recorded.checkpoints.values():
        resumes.assert_same_bits(resumes.resume(other, spec, data).outcome, recorded.outcome)


class _Improvises(_OwnLoop):
    calls = 0

    def denoise(
        self, latents: torch.Tensor, embeddings: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        type(self).calls += 1
        for timestep in self.scheduler.timesteps:
            noise = self.predict(latents, timestep, embeddings)
            if type(self).calls > 1:
                self.predict(latents, timestep, embeddings)
            latents = self.scheduler.step(noise, timestep, latents)[0]
        return latents


def test_run_that_does_not_do_what_is_recorded_restarts_from_its_seed() -> None:
    _Improvises.calls = 0
    specimen = own(_Improvises)()
    shared = pipeline.SharedPipeline.from_pipeline(specimen.pipeline)
    spec = zoo_requests.spec_of(specimen, steps=3, output=FLOAT)
    recorded = resumes.record(shared, spec)
    resumed = resumes.resume(shared, spec, recorded.checkpoints[2])
    assert resumed.recorder.resumptions == [(0, worker_pb2.EXACTNESS_RESTARTED)]
    assert resumed.outcome.exactness == worker_pb2.EXACTNESS_RESTARTED
    assert resumed.outcome.resumed_from == 0
    assert [report.step for report in resumed.recorder.reports] == [1, 2, 3]
    resumes.assert_same_bits(resumed.outcome, recorded.outcome)

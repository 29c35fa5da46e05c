"""Runs that share the compute thread compute what each computes alone, bit for bit."""

import asyncio
import contextlib
import gc
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import diffusers
import peft
import pytest
import torch
from peft import utils as peft_utils

import compute_stage
import run_observers
import zoo
import zoo_requests
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import compute, pipeline, runs
from zoo_specimen import Specimen

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

SEEDS = {1: 11, 2: 22, 3: 33}


def shared_pipeline(specimen: Specimen) -> pipeline.SharedPipeline:
    return pipeline.SharedPipeline.from_pipeline(specimen.pipeline)


def alone(
    shared: pipeline.SharedPipeline, spec: worker_pb2.GenerationSpec, seed: int
) -> tuple[list[bytes], int]:
    """Returns the outputs of a run, and at how many boundaries it could have been left."""
    recorder = run_observers.Recorder()
    outcome = shared.start_run(spec, seed=seed, observer=recorder).execute()
    return bytes_of(outcome), recorder.boundaries


def bytes_of(ending: compute.Ending) -> list[bytes]:
    assert isinstance(ending, runs.RunOutcome), ending
    return [bytes(each.data) for each in ending.outputs]


def attempts(
    shared: pipeline.SharedPipeline, specs: Mapping[int, worker_pb2.GenerationSpec]
) -> dict[int, compute.Attempt]:
    return {
        number: compute.Attempt(
            number, shared, spec, SEEDS[number], policy=compute_stage.NO_CHECKPOINTS
        )
        for number, spec in specs.items()
    }


def assert_together_as_alone(
    shared: pipeline.SharedPipeline, specs: Mapping[int, worker_pb2.GenerationSpec]
) -> None:
    expected = {number: alone(shared, spec, SEEDS[number]) for number, spec in specs.items()}
    endings, switches = asyncio.run(compute_stage.perform_together(attempts(shared, specs)))
    for number, (outputs, _) in expected.items():
        assert bytes_of(endings[number]) == outputs
    # To the run and back: once for each, and once for each boundary that both pass.
    shared_boundaries = min(boundaries for _, boundaries in expected.values())
    assert switches >= 2 * (len(specs) + shared_boundaries)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_two_runs_that_switch_at_every_boundary_compute_what_each_does_alone(name: str) -> None:
    specimen = zoo.shared(name)
    specs = {
        number: zoo_requests.spec_of(specimen, steps=steps) for number, steps in ((1, 3), (2, 2))
    }
    assert_together_as_alone(shared_pipeline(specimen), specs)


def cached(specimen: Specimen) -> Specimen:
    """Makes later steps depend on hidden states of earlier ones."""
    config = diffusers.FirstBlockCacheConfig(threshold=0.5)  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
    specimen.pipeline.components["transformer"].enable_cache(config)
    return specimen


def test_step_caches_of_two_runs_are_their_own() -> None:
    shared = shared_pipeline(cached(zoo.build("flux")))
    specs = {
        number: zoo_requests.spec_of(zoo.shared("flux"), steps=steps)
        for number, steps in ((1, 5), (2, 4))
    }
    assert_together_as_alone(shared, specs)


def write_adapter(folder: pathlib.Path) -> pathlib.Path:
    """Saves an adapter of random weights for the zoo's Stable Diffusion."""
    unet = zoo.build("sd15").pipeline.components["unet"]
    unet.add_adapter(
        peft.LoraConfig(r=2, lora_alpha=4, target_modules=["to_q"], init_lora_weights=False)
    )
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora" in name:
                parameter.normal_()
    diffusers.StableDiffusionPipeline.save_lora_weights(  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
        folder, unet_lora_layers=dict(peft_utils.get_peft_model_state_dict(unet))
    )
    return folder


@pytest.fixture
def with_adapter(tmp_path: pathlib.Path) -> pipeline.SharedPipeline:
    shared = shared_pipeline(zoo.build("sd15"))
    shared.adapters.load("sketch", str(write_adapter(tmp_path)))
    return shared


def sd15_spec(*, steps: int = 3, scale: float | None = None) -> worker_pb2.GenerationSpec:
    uses = [] if scale is None else [worker_pb2.AdapterUse(name="sketch", scale=scale)]
    return zoo_requests.spec_of(zoo.shared("sd15"), steps=steps, adapters=uses)


def test_adapters_act_in_the_runs_that_use_them_alone(
    with_adapter: pipeline.SharedPipeline,
) -> None:
    specs = {1: sd15_spec(scale=1.0), 2: sd15_spec(), 3: sd15_spec(scale=0.5)}
    assert_together_as_alone(with_adapter, specs)


@contextlib.contextmanager
def held(shared_specimen: diffusers.DiffusionPipeline) -> Iterator[Callable[[], None]]:
    """Lets no denoiser compute until what is yielded is called."""
    parts = shared_specimen.components
    denoiser = cast("torch.nn.Module", parts["unet"] if "unet" in parts else parts["transformer"])
    gate = threading.Event()

    def wait(*_: object) -> None:
        gate.wait(compute_stage.PATIENCE)

    hook = denoiser.register_forward_pre_hook(wait)
    try:
        yield gate.set
    finally:
        gate.set()
        hook.remove()


def test_run_whose_adapter_is_unloaded_while_it_is_paused_fails(
    with_adapter: pipeline.SharedPipeline,
) -> None:
    async def story(release: Callable[[], None]) -> compute.Ending:
        told = compute_stage.Told()
        async with compute_stage.a_thread() as thread:
            (attempt,) = attempts(with_adapter, {1: sd15_spec(scale=1.0)}).values()
            attempt.begin(thread, told.reports())
            await told.until_told("started", 1)
            attempt.pause()
            release()
            await told.until_told("paused", 1)
            await thread.call(lambda: with_adapter.adapters.unload("sketch"))
            attempt.unpause()
            await told.until_freed(1)
        assert told.paused_at == [1]
        return told.endings[1]

    with held(with_adapter._pipeline) as release:
        assert isinstance(asyncio.run(story(release)), errors.AdapterNotFoundError)


@pytest.mark.parametrize("name", ["sd_pag", "wan", "flux_stochastic"])
def test_run_that_is_cancelled_while_parked_leaves_the_other_alone(name: str) -> None:
    specimen = zoo.shared(name)
    shared = shared_pipeline(specimen)
    spec = zoo_requests.spec_of(specimen, steps=4)
    expected, _ = alone(shared, spec, SEEDS[2])

    async def story(release: Callable[[], None]) -> compute_stage.Told:
        told = compute_stage.Told()
        async with compute_stage.a_thread(switches_always=True) as thread:
            both = attempts(shared, {1: spec, 2: spec})
            both[1].begin(thread, told.reports())
            await told.until_told("started", 1)
            both[1].pause()
            both[2].begin(thread, told.reports())
            release()
            await told.until_told("paused", 1)
            both[1].cancel()
            await told.until_freed(1, 2)
        return told

    with held(specimen.pipeline) as release:
        told = asyncio.run(story(release))
    assert told.paused_at == [1]
    assert isinstance(told.endings[1], runs.RunCancelled)
    assert bytes_of(told.endings[2]) == expected
    assert alone(shared, spec, SEEDS[2])[0] == expected


def test_run_that_fails_in_the_middle_leaves_the_other_alone() -> None:
    specimen = zoo.build("sd15_unipc")
    shared = shared_pipeline(specimen)
    spec = zoo_requests.spec_of(specimen, steps=4)
    expected, _ = alone(shared, spec, SEEDS[1])
    unet = cast("torch.nn.Module", specimen.pipeline.components["unet"])
    forwards = 0

    def fail(*_: object) -> None:
        nonlocal forwards
        forwards += 1
        if forwards == 4:  # The second one of the second run.
            raise RuntimeError("in the middle")

    unet.register_forward_pre_hook(fail)
    endings, _ = asyncio.run(compute_stage.perform_together(attempts(shared, {1: spec, 2: spec})))
    assert isinstance(endings[2], errors.PipelineError)
    assert bytes_of(endings[1]) == expected


def test_checkpoint_of_a_parked_run_goes_on_beside_another_one() -> None:
    specimen = zoo.shared("flux_stochastic")  # Draws in steps.
    shared = shared_pipeline(specimen)
    spec = zoo_requests.spec_of(specimen, steps=5)
    expected = {number: alone(shared, spec, SEEDS[number])[0] for number in (1, 2)}

    async def story(release: Callable[[], None]) -> compute_stage.Told:
        told = compute_stage.Told()
        async with compute_stage.a_thread(switches_always=True) as thread:
            both = attempts(shared, {1: spec, 2: spec})
            both[1].begin(thread, told.reports())
            await told.until_told("started", 1)
            both[1].pause()
            both[2].begin(thread, told.reports())
            both[2].pause()
            release()
            await told.until(lambda: len(told.paused_at) == 2)
            both[1].ask_checkpoint()
            await told.until_told("captured", 1)
            both[1].cancel()
            await told.until_freed(1)
            again = compute.Attempt(
                3, shared, spec, SEEDS[1], checkpoint=told.drafts[0].to_bytes()
            )
            again.begin(thread, told.reports())
            both[2].unpause()
            await told.until_freed(2, 3)
        return told

    with held(specimen.pipeline) as release:
        told = asyncio.run(story(release))
    assert bytes_of(told.endings[2]) == expected[2]
    assert bytes_of(told.endings[3]) == expected[1]
    assert told.resumptions == [(told.drafts[0].step, worker_pb2.EXACTNESS_EXACT)]


def test_memory_of_a_parked_run_is_free_once_it_is_cancelled() -> None:
    specimen = zoo.shared("sd15_unipc")
    shared = shared_pipeline(specimen)
    spec = zoo_requests.spec_of(specimen, steps=4)
    alone(shared, spec, SEEDS[1])

    async def story(release: Callable[[], None]) -> tuple[int, int, int]:
        told = compute_stage.Told()
        async with compute_stage.a_thread() as thread:
            (attempt,) = attempts(shared, {1: spec}).values()
            before = await thread.call(tensors)
            attempt.begin(thread, told.reports())
            await told.until_told("started", 1)
            attempt.pause()
            release()
            await told.until_told("paused", 1)
            parked = tensors()
            attempt.cancel()
            await told.until_freed(1)
            return before, parked, await thread.call(tensors)

    with held(specimen.pipeline) as release:
        before, parked, after = asyncio.run(story(release))
    assert parked > before
    assert after == before


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

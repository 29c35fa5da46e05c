"""Compiled modules, step caches and hooks stay what they are behind the seams."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

import run_observers
import zoo
import zoo_requests
from kubediffusion_worker import model, pipeline, runs
from zoo_specimen import Specimen

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]


def compiled_in_place(specimen: Specimen) -> None:
    specimen.pipeline.components["transformer"].compile(backend="eager")


def compiled_block_by_block(specimen: Specimen) -> None:
    specimen.pipeline.components["transformer"].compile_repeated_blocks(backend="eager")


def compiled_to_another_object(specimen: Specimen) -> None:
    compiled = torch.compile(specimen.pipeline.components["transformer"], backend="eager")
    specimen.pipeline.register_modules(transformer=compiled)


def cached(specimen: Specimen) -> None:
    """Makes later steps depend on hidden states of earlier ones."""
    config = diffusers.FirstBlockCacheConfig(threshold=0.5)  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
    specimen.pipeline.components["transformer"].enable_cache(config)


def wrapped(wrap: Callable[[Specimen], None]) -> Specimen:
    specimen = zoo.build("flux")
    wrap(specimen)
    return specimen


def latents(shared: pipeline.SharedPipeline, recorder: run_observers.Recorder) -> bytes:
    spec = zoo_requests.spec_of(zoo.shared("flux"), steps=4)
    outcome = shared.start_run(spec, seed=0, observer=recorder).execute()
    return bytes(outcome.outputs[0].data)


@pytest.mark.parametrize(
    "wrap", [compiled_in_place, compiled_block_by_block, compiled_to_another_object, cached]
)
def test_wrapped_module_gives_the_bits_of_plain_diffusers_after_a_cancel_too(
    wrap: Callable[[Specimen], None],
) -> None:
    (plain,) = zoo_requests.arrays_of_plain(zoo.call_plainly(wrapped(wrap), steps=4))
    shared = pipeline.SharedPipeline.from_pipeline(wrapped(wrap).pipeline)
    assert latents(shared, run_observers.Recorder()) == plain.tobytes()
    spec = zoo_requests.spec_of(zoo.shared("flux"), steps=4)
    recorder = run_observers.Recorder(
        at_boundary=lambda number: attempt.cancel() if number == 2 else None
    )
    attempt = shared.start_run(spec, seed=0, observer=recorder)
    with pytest.raises(runs.RunCancelled):
        attempt.execute()
    assert latents(shared, run_observers.Recorder()) == plain.tobytes()


def test_denoiser_is_compiled_on_demand(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("model")
    zoo.build("sd15").pipeline.save_pretrained(folder)
    compiled: list[str] = []
    compile_module = torch.nn.Module.compile

    def compile_eagerly(module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        compiled.append(type(module).__name__)
        # The real compiler takes minutes and needs a C++ compiler.
        compile_module(module, *args, **(kwargs | {"backend": "eager"}))

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    config = model.ModelConfig(model=str(folder), device="cpu", compile=True)
    shared = model.load(config)
    assert compiled
    assert set(compiled) <= {"UNet2DConditionModel", "BasicTransformerBlock"}
    spec = zoo_requests.spec_of(zoo.shared("sd15"))
    (plain,) = zoo_requests.arrays_of_plain(zoo.call_plainly(zoo.build("sd15")))
    outcome = shared.start_run(spec, seed=0, observer=run_observers.Recorder()).execute()
    assert bytes(outcome.outputs[0].data) == plain.tobytes()

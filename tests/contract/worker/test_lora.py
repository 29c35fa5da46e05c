"""LoRA adapters made with peft: loaded by name, used per request, gone without a trace."""

import pathlib
from collections.abc import Callable

import diffusers
import peft
import pytest
import safetensors.torch
import torch
from peft import utils as peft_utils

import resumes
import run_observers
import zoo
import zoo_requests
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import adapters, pipeline, runs

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

SPECIES = "sd15"


def write_adapter(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """Saves an adapter of random weights for the zoo's Stable Diffusion."""
    unet = zoo.build(SPECIES).pipeline.components["unet"]
    unet.add_adapter(
        peft.LoraConfig(
            r=2, lora_alpha=4, target_modules=["to_q", "to_k"], init_lora_weights=False
        )
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora" in name:
                parameter.normal_()
    diffusers.StableDiffusionPipeline.save_lora_weights(  # pyright: ignore[reportPrivateImportUsage]  # exported lazily
        folder, unet_lora_layers=dict(peft_utils.get_peft_model_state_dict(unet))
    )
    return folder / adapters.DEFAULT_FILE


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return {
        name: write_adapter(tmp_path_factory.mktemp(name), seed)
        for seed, name in enumerate(("sketch", "oil"))
    }


@pytest.fixture
def shared() -> pipeline.SharedPipeline:
    return pipeline.SharedPipeline.from_pipeline(zoo.build(SPECIES).pipeline)


def run(shared: pipeline.SharedPipeline, **scales: float) -> bytes:
    uses = [worker_pb2.AdapterUse(name=name, scale=scale) for name, scale in scales.items()]
    spec = zoo_requests.spec_of(
        zoo.shared(SPECIES),
        adapters=uses,
        output=worker_pb2.OutputOptions(type=worker_pb2.OUTPUT_TYPE_LATENT),
    )
    attempt = shared.start_run(spec, seed=0, observer=run_observers.Recorder())
    return bytes(attempt.execute().outputs[0].data)


def test_adapter_changes_what_uses_it_and_nothing_else(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    base = run(shared)
    shared.adapters.load("sketch", str(files["sketch"]))
    assert run(shared) == base
    assert run(shared, sketch=1.0) != base
    assert run(shared) == base


def test_adapter_gives_the_bits_of_plain_diffusers(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    specimen = zoo.build(SPECIES)
    specimen.pipeline.load_lora_weights(str(files["sketch"].parent), adapter_name="plain")  # pyright: ignore[reportAttributeAccessIssue]  # of this pipeline
    specimen.pipeline.set_adapters(["plain"], [0.7])  # pyright: ignore[reportAttributeAccessIssue]  # of this pipeline
    plain = zoo.call_plainly(specimen, output_type="latent")
    shared.adapters.load("sketch", str(files["sketch"]))
    assert run(shared, sketch=0.7) == plain["images"].numpy().tobytes()


def test_scale_of_one_run_does_not_reach_the_next(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    shared.adapters.load("sketch", str(files["sketch"]))
    full = run(shared, sketch=1.0)
    assert run(shared, sketch=0.3) != full
    assert run(shared, sketch=1.0) == full


def test_several_adapters_act_together(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    for name, file in files.items():
        shared.adapters.load(name, str(file))
    found = {run(shared), run(shared, sketch=1.0), run(shared, oil=1.0)}
    found.add(run(shared, sketch=1.0, oil=1.0))
    assert len(found) == 4


def test_unloaded_adapter_leaves_no_trace(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    base = run(shared)
    for name, file in files.items():
        shared.adapters.load(name, str(file))
    run(shared, sketch=1.0, oil=0.5)
    assert shared.adapters.unload("sketch")
    assert run(shared) == base
    assert shared.adapters.unload("oil")
    assert run(shared) == base
    assert not shared.adapters.unload("oil")
    assert shared.adapters.resident == ()


def test_cancelled_run_leaves_no_adapter_active(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    base = run(shared)
    shared.adapters.load("sketch", str(files["sketch"]))
    spec = zoo_requests.spec_of(
        zoo.shared(SPECIES), adapters=[worker_pb2.AdapterUse(name="sketch", scale=1.0)]
    )
    recorder = run_observers.Recorder(at_boundary=lambda _number: attempt.cancel())
    attempt = shared.start_run(spec, seed=0, observer=recorder)
    with pytest.raises(runs.RunCancelled):
        attempt.execute()
    assert run(shared) == base


def test_second_adapter_of_a_name_replaces_the_first(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    shared.adapters.load("style", str(files["sketch"]))
    first = run(shared, style=1.0)
    loaded = shared.adapters.load("style", str(files["oil"]))
    assert run(shared, style=1.0) != first
    assert shared.adapters.resident == (loaded,)


def test_adapter_is_found_in_a_folder(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    by_folder = shared.adapters.load("a", str(files["oil"].parent))
    by_name = shared.adapters.load("b", str(files["oil"].parent), adapters.DEFAULT_FILE)
    assert by_folder.sha256 == by_name.sha256
    assert [each.name for each in shared.adapters.resident] == ["a", "b"]


def test_name_with_dots_is_fine(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    shared.adapters.load("style.v2:final", str(files["oil"]))
    assert run(shared, **{"style.v2:final": 1.0}) != run(shared)


def test_unknown_adapter_is_refused_with_the_nearest_name(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    shared.adapters.load("sketch", str(files["sketch"]))
    spec = worker_pb2.GenerationSpec(
        prompt="a cat", adapters=[worker_pb2.AdapterUse(name="skech", scale=1.0)]
    )
    with pytest.raises(errors.AdapterNotFoundError, match="did you mean sketch"):
        shared.check(spec)


def test_fingerprint_of_a_run_names_its_adapters(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    shared.adapters.load("sketch", str(files["sketch"]))
    plain = worker_pb2.GenerationSpec(prompt="a cat")
    using = worker_pb2.GenerationSpec(
        prompt="a cat", adapters=[worker_pb2.AdapterUse(name="sketch", scale=1.0)]
    )
    assert shared.fingerprint_for(plain) == shared.fingerprint
    assert shared.fingerprint_for(using) != shared.fingerprint


def write_nothing(folder: pathlib.Path) -> None:
    """Leaves an empty folder."""


def write_pickle(folder: pathlib.Path) -> None:
    (folder / "pytorch_lora_weights.bin").write_bytes(b"\x80\x04.")


def write_garbage(folder: pathlib.Path) -> None:
    (folder / adapters.DEFAULT_FILE).write_bytes(b"not a safetensors file")


def write_foreign_weights(folder: pathlib.Path) -> None:
    tensors = {"unet.other.lora_A.weight": torch.zeros(2, 2)}
    safetensors.torch.save_file(tensors, folder / adapters.DEFAULT_FILE)


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (write_nothing, errors.AdapterNotFoundError),
        (write_pickle, errors.AdapterNotFoundError),
        (write_garbage, errors.InvalidRequestError),
        (write_foreign_weights, errors.InvalidRequestError),
    ],
)
def test_bad_adapter_is_refused_and_leaves_no_trace(
    shared: pipeline.SharedPipeline,
    tmp_path: pathlib.Path,
    write: Callable[[pathlib.Path], None],
    error: type[errors.KubediffusionError],
) -> None:
    base = run(shared)
    write(tmp_path)
    with pytest.raises(error):
        shared.adapters.load("bad", str(tmp_path))
    assert run(shared) == base
    assert shared.adapters.resident == ()


def test_pickled_file_is_never_opened(
    shared: pipeline.SharedPipeline, tmp_path: pathlib.Path
) -> None:
    write_pickle(tmp_path)
    with pytest.raises(errors.InvalidRequestError, match="safetensors"):
        shared.adapters.load("bad", str(tmp_path / "pytorch_lora_weights.bin"))
    with pytest.raises(errors.InvalidRequestError, match="safetensors"):
        shared.adapters.load("bad", str(tmp_path), "pytorch_lora_weights.bin")


def test_weight_name_does_not_lead_out_of_its_folder(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    outside = pathlib.Path("..") / files["oil"].parent.name / files["oil"].name
    folder = files["oil"].parent.parent / "elsewhere"
    folder.mkdir(exist_ok=True)
    with pytest.raises(errors.AdapterNotFoundError):
        shared.adapters.load("bad", str(folder), str(outside))


def test_adapter_that_is_nowhere_is_not_found(
    shared: pipeline.SharedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(errors.AdapterNotFoundError, match="somebody/nothing"):
        shared.adapters.load("bad", "somebody/nothing")


def test_pipeline_without_lora_says_so(files: dict[str, pathlib.Path]) -> None:
    shared = pipeline.SharedPipeline.from_pipeline(zoo.build("ddpm").pipeline)
    assert not shared.adapters.is_supported
    with pytest.raises(errors.InvalidRequestError, match="takes no LoRA"):
        shared.adapters.load("sketch", str(files["sketch"]))


def test_run_with_an_adapter_goes_on_with_it_and_with_no_other(
    shared: pipeline.SharedPipeline, files: dict[str, pathlib.Path]
) -> None:
    shared.adapters.load("sketch", str(files["sketch"]))
    use = worker_pb2.AdapterUse(name="sketch", scale=1.0)
    spec = zoo_requests.spec_of(zoo.shared(SPECIES), adapters=[use])
    recorded = resumes.record(shared, spec)
    other = pipeline.SharedPipeline.from_pipeline(zoo.build(SPECIES).pipeline)
    other.adapters.load("sketch", str(files["sketch"]))
    resumes.assert_resumes_exactly(other, spec, recorded, 2)
    other.adapters.load("sketch", str(files["oil"]))  # Another one by the same name.
    resumed = resumes.resume(other, spec, recorded.checkpoints[2])
    assert resumed.outcome.exactness != worker_pb2.EXACTNESS_EXACT

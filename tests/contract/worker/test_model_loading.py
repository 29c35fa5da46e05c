"""Models that can be served, and one clear line for each kind that cannot."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

import run_observers
import zoo
import zoo_requests
from kubediffusion_worker import model, pipeline, runs

LARGE = {"height": 48, "width": 48}
"""In pixels; the tiles of the VAE have 32 x 32."""

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("model")
    zoo.build("sd15").pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(saved, tmp_path / "copy"))


def load(folder: pathlib.Path | str, **config: Any) -> pipeline.SharedPipeline:
    options = {"device": "cpu", **config}
    return model.load(model.ModelConfig(model=str(folder), **options))


def picture(shared: pipeline.SharedPipeline, **fields: Any) -> bytes:
    spec = zoo_requests.spec_of(zoo.shared("sd15"), **fields)
    attempt = shared.start_run(spec, seed=0, observer=run_observers.Recorder())
    return bytes(attempt.execute().outputs[0].data)


def test_folder_gives_the_pictures_of_what_was_saved(saved: pathlib.Path) -> None:
    plain = zoo_requests.arrays_of_plain(zoo.call_plainly(zoo.build("sd15")))
    assert picture(load(saved)) == plain[0].tobytes()


def test_address_of_a_folder_is_a_folder(saved: pathlib.Path) -> None:
    assert load(f"file://{saved}").class_name == "StableDiffusionPipeline"


def test_loaded_pipeline_tells_what_it_is(saved: pathlib.Path) -> None:
    shared = load(saved)
    assert (shared.class_name, shared.dtype, shared.device, shared.revision) == (
        "StableDiffusionPipeline",
        "float32",
        "cpu",
        "",
    )
    assert len(shared.weights_digest) == len(shared.fingerprint) == 64
    assert "prompt" in {parameter.name for parameter in shared.parameters}


def test_same_folder_has_the_same_fingerprint(saved: pathlib.Path, copied: pathlib.Path) -> None:
    assert load(saved).fingerprint == load(copied).fingerprint
    assert load(saved, dtype="bfloat16").fingerprint != load(saved).fingerprint


def test_type_of_the_weights_is_converted(saved: pathlib.Path) -> None:
    assert load(saved, dtype="bfloat16").dtype == "bfloat16"


def test_variant_of_the_weights_is_loaded(tmp_path: pathlib.Path) -> None:
    zoo.build("sd15").pipeline.save_pretrained(tmp_path, variant="fp16")
    assert load(tmp_path, variant="fp16").class_name == "StableDiffusionPipeline"
    with pytest.raises(model.ModelLoadError) as caught:
        load(tmp_path)
    assert "variant" in caught.value.message


def test_missing_variant_is_named(saved: pathlib.Path) -> None:
    with pytest.raises(model.ModelLoadError) as caught:
        load(saved, variant="fp16")
    assert "variant=fp16" in caught.value.message


def test_loading_seeds_and_prints_nothing(
    saved: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def remove_index(folder: pathlib.Path) -> None:
    (folder / "model_index.json").unlink()


def break_index(folder: pathlib.Path) -> None:
    (folder / "model_index.json").write_text("{")


def name_unknown_class(folder: pathlib.Path) -> None:
    change_index(folder, "FutureDiffusionPipeline")


def name_own_code(folder: pathlib.Path) -> None:
    change_index(folder, ["pipeline", "MyPipeline"])
    (folder / "pipeline.py").write_text("raise SystemExit('ran')")


def name_no_pipeline(folder: pathlib.Path) -> None:
    change_index(folder, "DDIMScheduler")


def change_index(folder: pathlib.Path, class_name: object) -> None:
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "_class_name": class_name}))


def keep_pickles_only(folder: pathlib.Path) -> None:
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


def keep_one_pickle(folder: pathlib.Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def remove_component(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "vae")


def cut_weights(folder: pathlib.Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def fill_with_garbage(folder: pathlib.Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 100)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove_index, "NOT_A_PIPELINE"),
        (break_index, "NOT_A_PIPELINE"),
        (name_unknown_class, "UNKNOWN_PIPELINE"),
        (name_own_code, "REMOTE_CODE"),
        (name_no_pipeline, "UNKNOWN_PIPELINE"),
        (keep_pickles_only, "NO_SAFETENSORS"),
        (keep_one_pickle, "NO_SAFETENSORS"),
        (remove_component, "MODEL_BROKEN"),
        (cut_weights, "MODEL_BROKEN"),
        (fill_with_garbage, "MODEL_BROKEN"),
    ],
)
def test_bad_folder_gives_one_clear_line(
    copied: pathlib.Path, spoil: Callable[[pathlib.Path], None], reason: str
) -> None:
    spoil(copied)
    with pytest.raises(model.ModelLoadError) as caught:
        load(copied)
    assert caught.value.reason == reason
    assert "\n" not in caught.value.message
    assert str(copied) in caught.value.message


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "nowhere", "a/b/c"])
def test_folder_that_is_not_there_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(model.ModelLoadError, match="must be a folder") as caught:
        load(name)
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_file_is_no_model(saved: pathlib.Path) -> None:
    with pytest.raises(model.ModelLoadError, match="found a file"):
        load(saved / "model_index.json")


def test_model_of_the_hub_that_cannot_be_had_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.HF_HUB_OFFLINE", True, raising=False)
    with pytest.raises(model.ModelLoadError) as caught:
        load("somebody/no-such-model")
    assert caught.value.reason in ("HUB_UNREACHABLE", "MODEL_NOT_FOUND")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("device", ["cuda:99", "warp"])
def test_device_that_is_not_there_is_named(saved: pathlib.Path, device: str) -> None:
    with pytest.raises(model.ModelLoadError, match=device) as caught:
        load(saved, device=device)
    assert caught.value.reason == "DEVICE_NOT_FOUND"


def test_offloaded_pipeline_gives_the_same_bits_again_and_again(saved: pathlib.Path) -> None:
    # From the CPU to the CPU: the hooks are those that a GPU has.
    shared = load(saved, offload="model")
    wanted = picture(load(saved))
    assert [picture(shared), picture(shared)] == [wanted, wanted]


def test_offloaded_pipeline_survives_a_cancel(saved: pathlib.Path) -> None:
    shared = load(saved, offload="model")
    wanted = picture(shared)
    spec = zoo_requests.spec_of(zoo.shared("sd15"))
    recorder = run_observers.Recorder(at_boundary=lambda _number: attempt.cancel())
    attempt = shared.start_run(spec, seed=0, observer=recorder)
    with pytest.raises(runs.RunCancelled):
        attempt.execute()
    assert picture(shared) == wanted


def test_offloading_module_by_module_needs_a_gpu(saved: pathlib.Path) -> None:
    with pytest.raises(model.ModelLoadError, match="needs a GPU"):
        load(saved, offload="sequential")


def test_large_pictures_are_decoded_in_tiles_where_that_is_wanted(saved: pathlib.Path) -> None:
    specimen = zoo.build("sd15")
    specimen.arguments.update(LARGE)
    specimen.pipeline.vae.enable_tiling()
    plain = zoo_requests.arrays_of_plain(zoo.call_plainly(specimen))[0].tobytes()
    tiled, whole = load(saved, vae_tiling=True), load(saved)
    assert picture(tiled, **LARGE) == plain != picture(whole, **LARGE)
    assert tiled.fingerprint != whole.fingerprint


def test_frames_are_decoded_one_by_one_where_that_is_wanted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.build("animatediff").pipeline.save_pretrained(tmp_path)
    spec = zoo_requests.spec_of(zoo.shared("animatediff"), num_frames=2)
    sizes: list[int] = []
    decode = diffusers.AutoencoderKL._decode

    def counted(vae: Any, latents: torch.Tensor, *args: Any) -> Any:  # Any: diffusers' own
        sizes.append(len(latents))
        return decode(vae, latents, *args)

    sliced, whole = load(tmp_path, vae_slicing=True), load(tmp_path)
    monkeypatch.setattr(diffusers.AutoencoderKL, "_decode", counted)
    for shared in (sliced, whole):
        shared.start_run(spec, seed=0, observer=run_observers.Recorder()).execute()
    assert sizes == [1, 1, 2]
    assert sliced.fingerprint != whole.fingerprint


@pytest.mark.parametrize("flag", ["vae_slicing", "vae_tiling"])
def test_pipeline_whose_vae_cannot_save_memory_is_named(tmp_path: pathlib.Path, flag: str) -> None:
    zoo.build("ddpm").pipeline.save_pretrained(tmp_path)
    with pytest.raises(model.ModelLoadError, match=f"--{flag.replace('_', '-')}; found") as caught:
        load(tmp_path, **{flag: True})
    assert caught.value.reason == "VAE_REFUSED"


def test_pipeline_is_ready_for_inference(saved: pathlib.Path) -> None:
    shared = load(saved)
    shared.self_test()
    assert picture(shared) == picture(shared)

import pathlib

import safetensors.torch
import torch

from kubediffusion_worker import fingerprint, model

CPU = torch.device("cpu")


def facts(**changes: object) -> dict[str, str]:
    config = model.ModelConfig(model="x")
    return fingerprint.facts(config, weights_digest="w", device=CPU, dtype="float32", **changes)


def write(folder: pathlib.Path, value: float) -> None:
    (folder / "unet").mkdir(exist_ok=True)
    tensors = {"weight": torch.full((300, 300), value), "bias": torch.zeros(300)}
    safetensors.torch.save_file(tensors, folder / "unet" / "model.safetensors")


def test_equal_facts_have_equal_fingerprints() -> None:
    assert fingerprint.of({"a": "1", "b": "2"}) == fingerprint.of({"b": "2", "a": "1"})
    assert fingerprint.of({"a": "1"}) != fingerprint.of({"a": "2"})
    assert len(fingerprint.of(facts())) == 64


def test_facts_name_what_bits_depend_on() -> None:
    assert facts().keys() >= {
        "weights",
        "torch",
        "diffusers",
        "transformers",
        "step_control",
        "dtype",
        "attention",
        "compile",
        "vae_slicing",
        "vae_tiling",
        "matmul_precision",
        "batch_shape",
        "device",
        "cpu",
        "cpu_capability",
        "threads",
        "onednn",
    }


def test_number_of_threads_changes_the_fingerprint() -> None:
    before = torch.get_num_threads()
    first = facts()
    try:
        torch.set_num_threads(before + 1)
        assert fingerprint.of(facts()) != fingerprint.of(first)
    finally:
        torch.set_num_threads(before)


def test_same_files_have_the_same_digest_wherever_they_lie(tmp_path: pathlib.Path) -> None:
    digests = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        write(folder, 1.0)
        digests.append(fingerprint.weights_in_folder(folder, revision=""))
    assert digests[0] == digests[1]


def test_weights_of_the_same_shapes_have_other_digests(tmp_path: pathlib.Path) -> None:
    write(tmp_path, 1.0)
    first = fingerprint.weights_in_folder(tmp_path, revision="")
    write(tmp_path, 1.5)
    assert fingerprint.weights_in_folder(tmp_path, revision="") != first


def test_revision_is_a_part_of_the_digest(tmp_path: pathlib.Path) -> None:
    write(tmp_path, 1.0)
    assert fingerprint.weights_in_folder(tmp_path, revision="a") != (
        fingerprint.weights_in_folder(tmp_path, revision="b")
    )


def test_broken_file_has_a_digest_too(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 9)
    assert len(fingerprint.weights_in_folder(tmp_path, revision="")) == 64


def test_modules_in_memory_have_a_digest_of_their_values() -> None:
    torch.manual_seed(0)
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    digest = fingerprint.weights_in_memory({"unet": first})
    assert digest == fingerprint.weights_in_memory({"unet": first})
    assert digest != fingerprint.weights_in_memory({"unet": second})


def test_adapters_and_their_scales_change_the_fingerprint() -> None:
    plain = fingerprint.with_adapters("f", [])
    found = {
        plain,
        fingerprint.with_adapters("f", [("a", 1.0)]),
        fingerprint.with_adapters("f", [("a", 0.5)]),
        fingerprint.with_adapters("f", [("a", 1.0), ("b", 1.0)]),
    }
    assert plain == "f"
    assert len(found) == 4

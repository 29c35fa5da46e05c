"""Checkpoints as files: the same bytes each time, readable by later versions, sealed."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors_torch

import checkpoint_specimens as specimens
from kubediffusion_wire import errors
from kubediffusion_worker import checkpoint, runs

GOLDEN = pathlib.Path(__file__).parents[2] / "data" / "checkpoint-format-1.safetensors"
"""Was written when the format was new; never write it again."""


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    """Change a file's header, and its length with it."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(old, new)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def test_a_checkpoint_comes_back_as_it_was() -> None:
    read = checkpoint.decode(specimens.small())
    assert (read.format, read.step, read.seed) == (1, 3, 2**64 - 1)
    assert (read.fingerprint, read.spec_digest) == ("f" * 64, "5" * 64)
    assert (read.weights_digest, read.class_name) == ("e" * 64, "StableDiffusionPipeline")
    assert read.body["calls"][0][0] == "unet"
    value = specimens.value_in(specimens.small())
    assert value["latents"].tolist() == [[0.5, 2.0], [-1.0, 0.25]]
    assert value["latents"].stride() == (1, 2)


def test_same_checkpoint_gives_the_same_bytes() -> None:
    assert specimens.every_kind() == specimens.every_kind()


def test_file_of_format_1_is_read_and_written_again_byte_for_byte() -> None:
    data = GOLDEN.read_bytes()
    read = checkpoint.decode(data)
    assert checkpoint.encode(read) == data
    assert specimens.every_kind() == data


def test_values_in_the_file_of_format_1_are_those_that_were_written() -> None:
    found = specimens.value_in(GOLDEN.read_bytes())
    wanted = specimens.values()
    assert str(found) == str(wanted)
    assert found["latents"].stride() == wanted["latents"].stride()


def test_safetensors_reads_the_tensors() -> None:
    found = safetensors_torch.load(GOLDEN.read_bytes())
    read = checkpoint.decode(GOLDEN.read_bytes())
    assert found.keys() == read.tensors.keys()
    assert all(torch.equal(found[name], read.tensors[name]) for name in found)


def test_facts_are_those_of_the_checkpoint() -> None:
    assert checkpoint.facts(GOLDEN.read_bytes()) == runs.CheckpointFacts(
        step=3, fingerprint="f" * 64, spec_digest="5" * 64, seed=2**64 - 1, format=1
    )


def test_newer_format_is_refused_with_the_versions_that_are_read() -> None:
    data = changed(specimens.small(), b'"format":"1"', b'"format":"2"')
    for read in (checkpoint.decode, checkpoint.facts):
        with pytest.raises(errors.InvalidCheckpointError, match=r"format 2.* reads format 1$"):
            read(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format":"1"', b'"format":"01"'),
        (b'"format":"1"', b'"format":"x"'),
        (b'"format":"1"', b'"form":"1"'),
        (b'"kind":"kubediffusion checkpoint"', b'"kind":"LoRA"'),
        (b'"step":"3"', b'"step":"-3"'),
        (b'"step":"3"', b'"step":3'),
        (b'"step":"3"', '"step":"٣"'.encode()),
        (b'"step":"3"', b'"step":"3","step":"3"'),
        (b'"step":"3"', b'"step":"3","more":"3"'),
        (b'"step":"3",', b""),
        (b'"seed":"18446744073709551615"', b'"seed":"18446744073709551616"'),
        (b"f" * 64, b"f f"),
        (b"5" * 64, b"5" * 63),
        (b"StableDiffusionPipeline", b"os.system"),
    ],
)
def test_metadata_that_is_not_as_it_must_be_is_refused(old: bytes, new: bytes) -> None:
    data = changed(specimens.small(), old, new)
    assert data != specimens.small()
    for read in (checkpoint.decode, checkpoint.facts):
        with pytest.raises(errors.InvalidCheckpointError):
            read(data)


def test_every_flipped_bit_is_found() -> None:
    data = specimens.small()
    for index in range(len(data)):
        flipped = bytearray(data)
        flipped[index] ^= 1 << (index % 8)
        with pytest.raises(errors.InvalidCheckpointError):
            checkpoint.decode(bytes(flipped))


def test_every_missing_end_is_found() -> None:
    data = specimens.small()
    for length in range(len(data)):
        with pytest.raises(errors.InvalidCheckpointError):
            checkpoint.decode(data[:length])


def test_checkpoints_over_the_limit_are_not_written() -> None:
    with pytest.raises(runs.NotCapturableError, match="more than 100 bytes"):
        checkpoint.encode(checkpoint.decode(specimens.every_kind()), max_bytes=100)


@pytest.mark.parametrize(
    "body",
    [
        {"nan": float("nan")},
        {"object": object()},
        {"deep": json.loads("[" * 70 + "]" * 70)},
        {"node": {"$list": 1}},
        {"node": {"$tensor": "missing"}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_what_could_not_be_read_is_not_written(body: dict[str, Any]) -> None:
    whole = dataclasses.replace(checkpoint.decode(specimens.small()), body=body)
    with pytest.raises(runs.NotCapturableError):
        checkpoint.encode(whole)


@pytest.mark.parametrize(
    "limits",
    [
        checkpoint.Limits(max_bytes=500),
        checkpoint.Limits(max_header_bytes=500),
        checkpoint.Limits(max_tensors=1),
        checkpoint.Limits(max_depth=3),
        checkpoint.Limits(max_values=10),
    ],
    ids=str,
)
def test_files_over_a_limit_are_refused(limits: checkpoint.Limits) -> None:
    with pytest.raises(errors.InvalidCheckpointError):
        checkpoint.decode(specimens.small(), limits)


def test_tensors_that_are_used_too_often_are_refused() -> None:
    data = specimens.of(torch.zeros(100), extra={"again": [{"$tensor": "value"}] * 10})
    with pytest.raises(errors.InvalidCheckpointError, match="too often"):
        checkpoint.decode(data, checkpoint.Limits(max_bytes=2000))


def test_a_memoryview_is_read_like_bytes() -> None:
    data = b"before" + specimens.small()
    read = checkpoint.decode(memoryview(data)[6:])
    assert read.tensors["value.latents"].tolist() == [[0.5, 2.0], [-1.0, 0.25]]

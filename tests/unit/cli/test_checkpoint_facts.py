import hashlib
import json
import struct

import pytest

from kubediffusion._links import protocol
from kubediffusion.cli import checkpoint
from kubediffusion_proto.v1 import worker_pb2


def safetensors(header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def fetched(data):
    info = worker_pb2.CheckpointInfo(
        step=7,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        fingerprint="f",
        format=1,
    )
    return protocol.FetchedCheckpoint(info=info, data=bytearray(data))


def test_a_checkpoint_tells_its_pipeline_seed_and_tensors():
    header = {
        "__metadata__": {"class_name": "FluxPipeline", "seed": "5", "body": "{}"},
        "t0": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    }
    known = checkpoint.facts(fetched(safetensors(header) + bytes(4)))
    assert (known["step"], known["pipeline"], known["seed"]) == (7, "FluxPipeline", "5")
    assert known["tensors"] == 1
    assert "body" not in known


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
    ids=["empty", "short", "long header", "no JSON", "no object", "deep"],
)
def test_of_a_checkpoint_that_cannot_be_read_what_its_worker_says_is_told(data):
    known = checkpoint.facts(fetched(data))
    assert known == {
        "step": 7,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "fingerprint": "f",
        "format": 1,
    }


def test_facts_are_written_one_a_line():
    known = {
        "request_id": "cat",
        "worker": "w",
        **checkpoint.facts(fetched(b"")),
        "path": "cat.checkpoint",
    }
    lines = checkpoint.as_text(known).splitlines()
    assert lines[0].split(maxsplit=1) == ["generation", "cat on w"]
    assert lines[-1].split() == ["path", "cat.checkpoint"]


def test_a_saved_checkpoint_is_for_its_user_alone(tmp_path):
    path = tmp_path / "cat.checkpoint"
    checkpoint.save(b"abc", path)
    assert path.read_bytes() == b"abc"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]

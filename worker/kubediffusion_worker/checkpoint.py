"""Checkpoints as files: what they are made of, and how they are written and read.

A checkpoint is a safetensors file, see `tensor_file`, with these strings in its metadata:
`format`, `step`, `seed`, `fingerprint`, `spec_digest`, `weights_digest`, `class_name`, and
`body`, a JSON object of what a run recorded. Objects of the body that have a key beginning with
"$" are nodes, see `nodes`: through them alone the body refers to tensors.

Nothing in it can run code: it is read by `json`, by length and by offset, and the only names in
it are those of output classes that the process has loaded anyway.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from kubediffusion_wire import errors
from kubediffusion_worker import nodes, runs, tensor_file

FORMAT = 1
"""Of what is written; raised when older versions could not read it."""

READABLE_FORMATS = (1,)

Limits = tensor_file.Limits

_FORMAT = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_COUNT = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_SEED = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OPTIONAL_DIGEST = re.compile(r"(?:[0-9a-f]{64})?", re.ASCII)
_CLASS = re.compile(r"[A-Za-z_]\w{0,199}", re.ASCII)
_FINGERPRINT = re.compile(r"[!-~]{1,500}", re.ASCII)
_FIELDS: Mapping[str, re.Pattern[str]] = {
    "step": _COUNT,
    "seed": _SEED,
    "fingerprint": _FINGERPRINT,
    "spec_digest": _DIGEST,
    "weights_digest": _OPTIONAL_DIGEST,
    "class_name": _CLASS,
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run at a boundary."""

    step: int
    """Steps that were done."""
    fingerprint: str
    """Of the run that it was taken from, see `runs.LoadedPipeline.fingerprint_for`."""
    spec_digest: str
    """Of its specification, sha256, hexadecimal."""
    seed: int
    """Of its first output."""
    class_name: str
    """Of the pipeline, for example "StableDiffusionPipeline"."""
    body: Mapping[str, Any]
    """What `json` can write: whatever the recording needs, with nodes for the rest."""
    tensors: Mapping[str, torch.Tensor]
    """Contiguous, by the names that nodes in the body have for them."""
    weights_digest: str = ""
    """Names the weights: sha256, hexadecimal; empty where unknown."""
    format: int = field(default=FORMAT)
    """Version of the bytes."""


def encode(checkpoint: Checkpoint, *, max_bytes: int = Limits().max_bytes) -> bytes:
    """Returns a checkpoint as a file; the same bytes for the same checkpoint.

    Args:
        checkpoint: Its tensors may be on any device; they are copied from there.
        max_bytes: What the file may have.

    Raises:
        runs.NotCapturableError: It would be over a limit, or it is one that could not be read.
    """
    size = sum(each.numel() * each.dtype.itemsize for each in checkpoint.tensors.values())
    if size > max_bytes:
        raise runs.NotCapturableError(f"the checkpoint has more than {max_bytes} bytes")
    try:
        body = json.dumps(checkpoint.body, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise runs.NotCapturableError("the recording has no form as data") from error
    strings = {name: str(getattr(checkpoint, name)) for name in _FIELDS}
    metadata = {"kind": _KIND, "format": str(checkpoint.format), **strings, "body": body}
    data = tensor_file.write(metadata, checkpoint.tensors)
    try:
        _opened(memoryview(data), Limits(max_bytes=max_bytes))
    except errors.InvalidCheckpointError as error:
        raise runs.NotCapturableError(f"the recording cannot be saved: {error}") from error
    return data


def decode(data: bytes | memoryview, limits: Limits | None = None) -> Checkpoint:
    """Reads a checkpoint; tensors are copied out of `data` only when they are looked up.

    Args:
        data: The file; it must stay as it is as long as the checkpoint is used.
        limits: What is refused before anything is allocated for it.

    Raises:
        errors.InvalidCheckpointError: It is damaged, too large, of another format, or was made
            to do harm.
    """
    view = memoryview(data).cast("B")
    found = _opened(view, limits or Limits())
    tensor_file.verify(view)
    return found


def facts(data: bytes | memoryview, limits: Limits | None = None) -> runs.CheckpointFacts:
    """Reads what a checkpoint says about itself; neither its body nor its digest is looked at.

    Raises:
        errors.InvalidCheckpointError: It is no checkpoint, or of another format.
    """
    header = tensor_file.read_header(memoryview(data).cast("B"), limits or Limits())
    metadata = _checked(header.metadata)
    return runs.CheckpointFacts(
        step=int(metadata["step"]),
        fingerprint=metadata["fingerprint"],
        spec_digest=metadata["spec_digest"],
        seed=int(metadata["seed"]),
        format=int(metadata["format"]),
    )


_KIND = "kubediffusion checkpoint"


def _opened(view: memoryview, limits: Limits) -> Checkpoint:
    header = tensor_file.read_header(view, limits)
    metadata = _checked(header.metadata)
    tensors = tensor_file.tensors_of(view, header)
    body = tensor_file.parse_json(metadata["body"], limits)
    _check_body(body, tensors, limits)
    return Checkpoint(
        format=int(metadata["format"]),
        step=int(metadata["step"]),
        seed=int(metadata["seed"]),
        fingerprint=metadata["fingerprint"],
        spec_digest=metadata["spec_digest"],
        weights_digest=metadata["weights_digest"],
        class_name=metadata["class_name"],
        body=body,
        tensors=tensors,
    )


def _checked(metadata: Mapping[str, str]) -> Mapping[str, str]:
    if metadata.get("kind") != _KIND:
        _refuse("it is no file of this kind")
    version = metadata.get("format", "")
    if not _FORMAT.fullmatch(version):
        _refuse("it does not say its format")
    if int(version) not in READABLE_FORMATS:
        known = ", ".join(map(str, READABLE_FORMATS))
        _refuse(f"it has format {version}, and this version reads format {known}")
    if metadata.keys() != {"kind", "format", "body", *_FIELDS}:
        _refuse("its metadata has other fields")
    for name, pattern in _FIELDS.items():
        if not pattern.fullmatch(metadata[name]):
            _refuse(f"its {name} is none")
    if int(metadata["seed"]) >= 2**64:
        _refuse("its seed is none")
    return metadata


def _check_body(body: Mapping[str, Any], tensors: tensor_file.Tensors, limits: Limits) -> None:
    """Checks each node, and that those who use the tensors get no more than was promised."""
    size = 0
    for each in _nodes_of(body):
        key = nodes.check(each, tensors.facts)
        if key in ("$tensor", "$array"):
            size += tensors.size(each[key])
    if size > limits.max_bytes:
        _refuse("it uses its tensors too often")


def _nodes_of(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    pending: list[Any] = [body]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if any(key.startswith("$") for key in value):
                yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _refuse(what: str) -> NoReturn:
    raise errors.InvalidCheckpointError(f"the checkpoint is unusable: {what}")

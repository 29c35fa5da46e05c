"""A run as a checkpoint: the outputs that are finished, and the call that is not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kubediffusion_wire import errors
from kubediffusion_worker import checkpoint, runs, trees

FINISHED = "finished"
CALL = "call"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedCall:
    """What one call of a pipeline has made."""

    steps: int
    outputs: tuple[runs.OutputData, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """Is a `runs.CheckpointDraft`; its tensors are copies on their own devices."""

    checkpoint: checkpoint.Checkpoint

    @property
    def step(self) -> int:
        """Steps that are done."""
        return self.checkpoint.step

    def to_bytes(self) -> bytes:
        """Returns the file; see `runs.CheckpointDraft`."""
        return checkpoint.encode(self.checkpoint)


def to_json(made: Sequence[FinishedCall], tensors: dict[str, torch.Tensor]) -> trees.Node:
    """Returns finished calls as JSON.

    Args:
        made: In order.
        tensors: Takes the elements of their outputs.
    """
    plain = [
        {"steps": each.steps, "outputs": [_fields(output) for output in each.outputs]}
        for each in made
    ]
    return trees.flatten(plain, tensors, FINISHED)


def from_json(node: trees.Node, tensors: Mapping[str, torch.Tensor]) -> list[FinishedCall]:
    """Reads what `to_json` has returned.

    Raises:
        errors.InvalidCheckpointError: It is something else.
    """
    try:
        return [
            FinishedCall(
                steps=int(each["steps"]),
                outputs=tuple(_output(fields) for fields in each["outputs"]),
            )
            for each in trees.rebuild(node, tensors, "cpu")
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.InvalidCheckpointError("the checkpoint has no such outputs") from error


def _fields(output: runs.OutputData) -> dict[str, Any]:
    elements = bytearray(output.data)
    data = torch.frombuffer(elements, dtype=torch.uint8) if elements else torch.empty(0)
    return {**_described(output), "data": data}


def _described(output: runs.OutputData) -> dict[str, Any]:
    names = ("kind", "encoding", "dtype", "shape", "seed", "is_flagged", "name")
    return {name: getattr(output, name) for name in names}


def _output(fields: Mapping[str, Any]) -> runs.OutputData:
    data = fields["data"].numpy().tobytes()
    return runs.OutputData(**{**fields, "data": memoryview(data)})

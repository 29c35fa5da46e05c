"""Skeletons say how outputs look, and stand-ins look like that."""

import sys
from typing import Any

import pytest
import torch
from diffusers.models import modeling_outputs
from diffusers.models.autoencoders import vae
from diffusers.models.unets import unet_2d_condition
from transformers import modeling_outputs as text_outputs

from kubediffusion_wire import errors
from kubediffusion_worker import trees

GRID = torch.ones(2, 3, 4, 5)


def like(output: object) -> Any:
    return trees.stand_in(trees.skeleton_of(output), "cpu")


def test_stand_in_of_a_tensor_has_its_shape_type_and_layout_and_holds_zeros() -> None:
    output = GRID.to(torch.bfloat16).to(memory_format=torch.channels_last)
    found = like(output)
    assert (found.shape, found.dtype, found.stride()) == (
        output.shape,
        output.dtype,
        output.stride(),
    )
    assert not found.any()


def test_skeleton_does_not_hold_what_tensors_hold() -> None:
    assert trees.skeleton_of((GRID,)) == {"$tuple": [{"$zeros": [2, 3, 4, 5], "dtype": "float32"}]}


@pytest.mark.parametrize("cls", [tuple, list])
def test_stand_in_of_a_sequence_can_be_unpacked(cls: Any) -> None:
    found = like(cls([GRID, None, GRID[0]]))
    first, second, third = found
    assert type(found) is cls
    assert (first.shape, second, third.shape) == (GRID.shape, None, GRID[0].shape)


@pytest.mark.parametrize(
    "cls",
    [modeling_outputs.Transformer2DModelOutput, unet_2d_condition.UNet2DConditionOutput],
    ids=lambda cls: cls.__name__,
)
def test_stand_in_of_a_models_output_is_used_like_it(cls: Any) -> None:
    found = like(cls(sample=GRID))
    assert type(found) is cls
    assert found.sample.shape == found[0].shape == found["sample"].shape == GRID.shape
    assert len(found.to_tuple()) == 1


def test_stand_in_of_a_transformers_output_is_used_like_it() -> None:
    output = text_outputs.BaseModelOutputWithPooling(
        last_hidden_state=GRID, pooler_output=GRID[0], hidden_states=(GRID, GRID)
    )
    found = like(output)
    assert type(found) is text_outputs.BaseModelOutputWithPooling
    assert found.attentions is None
    assert found[-1][1].shape == GRID.shape
    assert found["pooler_output"].shape == GRID[0].shape
    assert found.keys() == output.keys()


def test_stand_in_of_scalars_and_dicts_has_their_values() -> None:
    output = {"a": 1, 2: None, "b": {"c": "text", "d": 0.5}}
    assert like(output) == output


def test_output_with_an_unknown_object_is_opaque() -> None:
    output = vae.DecoderOutput(sample=GRID, commit_loss=object())  # type: ignore[arg-type]
    assert trees.is_opaque(trees.skeleton_of((1, {"a": [output]})))
    assert not trees.is_opaque(trees.skeleton_of((1, {"a": [GRID]}, "$opaque")))


def test_no_stand_in_is_made_of_what_is_opaque() -> None:
    skeleton = trees.skeleton_of([object()])
    with pytest.raises(errors.InvalidCheckpointError):
        trees.stand_in(skeleton, "cpu")


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "subprocess:Popen",
        "torch:load",
        "diffusers:StableDiffusionPipeline",
        "diffusers.pipelines.pipeline_utils:DiffusionPipeline",
        "diffusers.utils.outputs:BaseOutput",
        "diffusers.utils.outputs:OrderedDict",
        "diffusers.utils.outputs:is_torch_available",
        "diffusers.utils.import_utils:os",
        "diffusers.models.modeling_outputs:dataclass",
        "diffusers.schedulers.scheduling_ddim:DDIMScheduler",
        "diffusers.schedulers.scheduling_ddim:BaseOutput",
        "transformers.utils.generic:ModelOutput",
        "transformers.modeling_utils:PreTrainedModel",
        "diffusers.commands.env:EnvironmentCommand",
        "diffusers.nowhere:Output",
        "diffusersx.models:Output",
        "diffusers..models:Output",
        "diffusers.models.modeling_outputs:Transformer2DModelOutput.__init__",
        "diffusers.models.modeling_outputs",
        "",
    ],
)
def test_no_other_class_is_made_and_nothing_is_imported(name: str) -> None:
    before = set(sys.modules)
    for fields in ([], [["sample", None]], [["args", "id"]]):
        with pytest.raises(errors.InvalidCheckpointError):
            trees.stand_in({"$output": name, "fields": fields}, "cpu")
    assert set(sys.modules) == before


@pytest.mark.parametrize("fields", [[], [["simple", None]], [["sample", 1], ["keys", 2]]], ids=str)
def test_output_with_other_fields_than_its_class_is_refused(fields: object) -> None:
    name = "diffusers.models.modeling_outputs:Transformer2DModelOutput"
    with pytest.raises(errors.InvalidCheckpointError):
        trees.stand_in({"$output": name, "fields": fields}, "cpu")


@pytest.mark.parametrize(
    "shape", [[2**40], [10**5] * 3, [0, 2**50], [2**40] * 32, [-1], [1] * 33, [True], [1.0], "12"]
)
def test_huge_or_impossible_shapes_are_refused(shape: object) -> None:
    with pytest.raises(errors.InvalidCheckpointError):
        trees.stand_in({"$zeros": shape, "dtype": "float32"}, "cpu")


def test_many_tensors_are_refused_when_they_are_too_large_together() -> None:
    one = {"$zeros": [1000, 1000, 100], "dtype": "float32"}
    with pytest.raises(errors.InvalidCheckpointError, match="too large"):
        trees.stand_in({"$list": [one] * 1000}, "cpu")


def test_deep_nesting_is_refused() -> None:
    node: Any = None
    for _ in range(10_000):
        node = {"$list": [node]}
    with pytest.raises(errors.InvalidCheckpointError, match="deep"):
        trees.stand_in(node, "cpu")

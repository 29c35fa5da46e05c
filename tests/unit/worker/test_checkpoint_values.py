"""Values go into a checkpoint's nodes and come back as they were."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models import modeling_outputs
from diffusers.schedulers import scheduling_ddim, scheduling_lcm
from hypothesis import given
from hypothesis import strategies as st
from transformers import modeling_outputs as text_outputs

from kubediffusion_wire import errors
from kubediffusion_worker import layouts, runs, trees

GRID = torch.arange(120, dtype=torch.float32).reshape(2, 3, 4, 5)


def there_and_back(value: object) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    node = trees.flatten(value, tensors, "value")
    return trees.rebuild(node, tensors, "cpu")


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(PLAIN)
def test_plain_values_come_back_equal_and_of_the_same_types(value: object) -> None:
    assert repr(there_and_back(value)) == repr(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 5e-324, 0.1, 1.7976931348623157e308])
def test_floats_are_exact(value: float) -> None:
    assert there_and_back(value).hex() == value.hex()


def test_nan_stays_nan() -> None:
    assert math.isnan(there_and_back(math.nan))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 2**64 - 1, -(2**5000)])
def test_whole_numbers_may_be_of_any_size(value: int) -> None:
    assert there_and_back(value) == value


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(GRID.to(memory_format=torch.channels_last), id="channels last"),
        pytest.param(GRID[:1].to(memory_format=torch.channels_last), id="channels last, one"),
        pytest.param(GRID[:, :1].to(memory_format=torch.channels_last), id="one channel"),
        pytest.param(GRID.permute(3, 1, 0, 2), id="transposed"),
        pytest.param(GRID[:1, :1].permute(1, 0, 3, 2), id="transposed with sides of one"),
        pytest.param(GRID[0, 0].t(), id="a transposed matrix"),
        pytest.param(GRID, id="contiguous"),
        pytest.param(torch.tensor(3.5), id="one number"),
        pytest.param(torch.zeros(0, 3), id="empty"),
        pytest.param(torch.zeros(2, 0, 3).permute(2, 0, 1), id="empty and transposed"),
    ],
)
def test_layout_of_a_dense_tensor_is_kept(tensor: torch.Tensor) -> None:
    found = there_and_back(tensor)
    assert torch.equal(found, tensor)
    assert found.shape == tensor.shape
    assert tensor.numel() == 0 or found.stride() == tensor.stride()


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(GRID[:, :2, ::2], id="sliced"),
        pytest.param(GRID.permute(0, 2, 3, 1)[..., :2], id="sliced and transposed"),
        pytest.param(GRID[:1].expand(3, 3, 4, 5), id="expanded"),
    ],
)
def test_tensor_with_gaps_gets_the_layout_of_its_clone(tensor: torch.Tensor) -> None:
    found = there_and_back(tensor)
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.clone().stride()


@pytest.mark.parametrize("name", sorted(layouts.DTYPES))
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)], ids=str)
def test_every_element_type_comes_back_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    dtype = layouts.DTYPES[name]
    count = math.prod(shape) * dtype.itemsize
    raw = torch.arange(count, dtype=torch.uint8) % 2 if name == "bool" else torch.arange(count)
    tensor = raw.to(torch.uint8).view(dtype).view(shape)
    found = there_and_back(tensor)
    assert (found.dtype, found.shape) == (dtype, tensor.shape)
    assert bytes_of(found) == bytes_of(tensor)


def test_nan_with_a_payload_comes_back_bit_for_bit() -> None:
    tensor = torch.tensor([0x7FC12345, -1], dtype=torch.int32).view(torch.float32)
    assert bytes_of(there_and_back(tensor)) == bytes_of(tensor)


def test_lazily_conjugated_numbers_are_stored_as_what_they_mean() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert torch.equal(there_and_back(tensor), tensor.resolve_conj())


def test_parameters_come_back_as_tensors_without_gradient() -> None:
    found = there_and_back(torch.nn.Parameter(torch.ones(2)))
    assert type(found) is torch.Tensor
    assert not found.requires_grad


def test_what_is_one_tensor_twice_is_one_tensor_again() -> None:
    tensor = torch.ones(3)
    tensors: dict[str, torch.Tensor] = {}
    node = trees.flatten({"a": tensor, "b": [tensor]}, tensors, "v")
    assert len(tensors) == 1
    found = trees.rebuild(node, tensors, "cpu")
    assert found["a"] is found["b"][0]


def test_stored_and_rebuilt_tensors_share_no_memory_with_others() -> None:
    original = torch.ones(3)
    tensors: dict[str, torch.Tensor] = {}
    node = trees.flatten(original, tensors, "v")
    original.zero_()
    found = trees.rebuild(node, tensors, "cpu")
    assert found.tolist() == [1, 1, 1]
    found.zero_()
    assert trees.rebuild(node, tensors, "cpu").tolist() == [1, 1, 1]


def test_names_of_tensors_do_not_collide() -> None:
    value = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "a/b": torch.ones(2)}
    found = there_and_back(value)
    assert [found["a.b"].tolist(), found["a"]["b"].tolist()] == [[0], [1]]
    assert found["a/b"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        np.array([True, False]),
        np.array(2.5, dtype=np.float16),
        np.array([1 + 1j]),
        np.arange(6)[::-2],
        np.zeros((0, 2), dtype=np.uint16),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_numpy_arrays_come_back(array: "np.ndarray[Any, Any]") -> None:
    found = there_and_back(array)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert np.array_equal(found, array)
    assert found.flags.f_contiguous == np.array(array, order="K").flags.f_contiguous


@pytest.mark.parametrize(
    "number", [np.float32(0.1), np.float64(0.1), np.int64(-3), np.bool_(True), np.complex64(1j)]
)
def test_numpy_scalars_keep_their_type(number: "np.generic[Any]") -> None:
    found = there_and_back(number)
    assert type(found) is type(number)
    assert found.tobytes() == number.tobytes()


def test_facts_about_tensors_come_back() -> None:
    value = (torch.bfloat16, torch.device("cpu"), torch.Size([2, 3]))
    assert there_and_back(value) == value
    assert type(there_and_back(value)[2]) is torch.Size


@pytest.mark.parametrize(
    "output",
    [
        scheduling_ddim.DDIMSchedulerOutput(prev_sample=GRID, pred_original_sample=GRID + 1),
        scheduling_lcm.LCMSchedulerOutput(prev_sample=GRID),
        modeling_outputs.Transformer2DModelOutput(sample=GRID),
        text_outputs.BaseModelOutputWithPooling(
            last_hidden_state=GRID, hidden_states=(GRID, GRID + 1)
        ),
    ],
    ids=lambda output: type(output).__name__,
)
def test_outputs_of_models_and_schedulers_come_back(output: Any) -> None:
    found = there_and_back(output)
    assert type(found) is type(output)
    assert list(found.keys()) == list(output.keys())
    assert vars(found).keys() == vars(output).keys()
    assert torch.equal(found[0], output[0])
    assert len(found.to_tuple()) == len(output.to_tuple())


class Foreign:
    """Has no form as data."""


@pytest.mark.parametrize(
    "value",
    [
        Foreign(),
        {1, 2},
        b"bytes",
        {(1, 2): 3},
        {None: 1},
        torch.zeros(2, device="meta"),
        torch.zeros(2, 2).to_sparse(),
        np.array(["text"]),
        np.array([1.0], dtype=">f8"),
        np.array([object()]),
        type("Sub", (dict,), {})(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_as_data_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(runs.NotCapturableError, match=r"^state\.a\.1 has no form as data"):
        trees.flatten({"a": [None, value]}, {}, "state")


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append([endless, endless])
    with pytest.raises(runs.NotCapturableError, match="no form as data"):
        trees.flatten(endless, {}, "state")


@pytest.mark.parametrize(
    "node",
    [
        1.5,
        [1],
        {},
        {"a": 1},
        {"$unknown": 1},
        {"$list": 1},
        {"$list": [[1]]},
        {"$list": [], "more": 1},
        {"$dict": [["a"]]},
        {"$dict": [["a", 1], ["a", 2]]},
        {"$dict": [[None, 1]]},
        {"$dict": [[[], 1]]},
        {"$int": "12"},
        {"$int": "0x"},
        {"$float": "1.5"},
        {"$float": "0x1.8p+9999"},
        {"$float": 1},
        {"$number": ["float32", "00"]},
        {"$number": ["object", "0000000000000000"]},
        {"$number": [[], "00"]},
        {"$dtype": "qint8"},
        {"$dtype": ["float32"]},
        {"$device": "cuda:0"},
        {"$device": []},
        {"$size": [-1]},
        {"$tensor": "missing"},
        {"$tensor": ["t"]},
        {"$tensor": "t", "strides": [1]},
        {"$tensor": "t", "strides": [1, 1]},
        {"$tensor": "t", "strides": [2**40, 1]},
        {"$tensor": "t", "strides": [1.0, 2.0]},
        {"$tensor": "t", "on": "cuda"},
        {"$tensor": "t", "on": []},
        {"$tensor": "t", "as": "complex64"},
        {"$tensor": "t", "as": ["complex64"]},
        {"$tensor": "t", "more": 1},
        {"$array": "t", "as": "float8_e8m0fnu"},
        {"$array": "half"},
        {"$zeros": [1], "dtype": "float32"},
        {"$opaque": "x"},
    ],
    ids=str,
)
def test_what_is_no_node_is_refused(node: object) -> None:
    tensors = {"t": torch.zeros(2, 2), "half": torch.zeros(2, dtype=torch.bfloat16)}
    with pytest.raises(errors.InvalidCheckpointError):
        trees.rebuild(node, tensors, "cpu")


def test_a_tensor_that_is_used_in_two_ways_is_refused() -> None:
    node = {"$list": [{"$tensor": "t"}, {"$tensor": "t", "strides": [1, 2]}]}
    with pytest.raises(errors.InvalidCheckpointError, match="two ways"):
        trees.rebuild(node, {"t": torch.zeros(2, 2)}, "cpu")

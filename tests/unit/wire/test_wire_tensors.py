import sys

import hypothesis
import numpy
import pytest
import torch
from hypothesis import strategies

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, tensors

NUMPY_NAMES = sorted(set(tensors.ITEM_SIZES) - {"bfloat16"})


def bits(array: numpy.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.name, array.shape, array.tobytes()


@pytest.mark.parametrize("name", NUMPY_NAMES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4), (2, 0, 3)])
def test_an_array_comes_back_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    generator = numpy.random.default_rng(0)
    array = (generator.random(shape) * 100).astype(name)
    message = tensors.to_message(tensors.from_numpy(array))
    data = message.SerializeToString()
    result = tensors.from_message(worker_pb2.Tensor.FromString(data)).to_numpy()
    assert bits(result) == bits(array)


@pytest.mark.parametrize("name", sorted(tensors.ITEM_SIZES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_a_torch_tensor_comes_back_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    tensor = (torch.rand(shape) * 100).to(getattr(torch, name))
    message = tensors.to_message(tensors.from_torch(tensor))
    result = tensors.from_message(message).to_torch()
    assert result.dtype is tensor.dtype
    assert torch.equal(result, tensor)


def test_a_decoded_array_is_writable_and_its_own() -> None:
    data = tensors.TensorData("uint8", (2,), b"ab")
    array = data.to_numpy()
    array[0] = 0
    assert data.data == b"ab"


def test_a_decoded_torch_tensor_is_its_own() -> None:
    data = tensors.TensorData("float32", (1,), b"\0\0\x80?")
    data.to_torch().zero_()
    assert data.to_torch().item() == 1.0


@hypothesis.given(strategies.lists(strategies.floats(width=32), max_size=20))
def test_bfloat16_becomes_float32_exactly(numbers: list[float]) -> None:
    tensor = torch.tensor(numbers, dtype=torch.bfloat16)
    result = tensors.from_torch(tensor).to_numpy()
    assert result.dtype == numpy.float32
    expected = tensor.float().numpy()
    numpy.testing.assert_array_equal(result, expected)


def test_nan_keeps_its_bits() -> None:
    pattern = numpy.array([0x7FC01234, 0xFF800001], dtype=numpy.uint32)
    array = pattern.view(numpy.float32)
    assert tensors.from_numpy(array).to_numpy().view(numpy.uint32).tolist() == pattern.tolist()


def test_big_endian_arrays_are_turned_around() -> None:
    array = numpy.array([1, 256], dtype=">i4")
    result = tensors.from_numpy(array)
    assert result.data == b"\1\0\0\0\0\1\0\0"
    assert result.to_numpy().tolist() == [1, 256]


def test_strided_arrays_are_laid_out_in_c_order() -> None:
    array = numpy.arange(12, dtype=numpy.int16).reshape(3, 4).T[::2]
    result = tensors.from_numpy(array)
    assert (result.to_numpy() == array).all()


def test_torch_views_and_gradients_are_no_obstacle() -> None:
    tensor = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    assert torch.equal(tensors.from_torch(tensor).to_torch(), tensor.detach())


def test_bytes_other_than_0_and_1_are_true() -> None:
    data = tensors.TensorData("bool", (3,), b"\0\1\xff")
    assert data.to_numpy().tolist() == [False, True, True]
    assert data.to_torch().tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", ["U1", "O", "c8", "u2", "u4", "u8", "M8[s]", "V3", "longdouble"])
def test_types_that_the_wire_lacks_are_refused(dtype: str) -> None:
    array = numpy.zeros(2, dtype=dtype)
    with pytest.raises(errors.InvalidRequestError, match="must have a dtype among bool, uint8"):
        tensors.from_numpy(array)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("uint8", (2**40,), 1),
        ("float64", (2**62, 4), 0),
        ("uint8", (-1,), 0),
        ("uint8", (-2, -3), 6),
        ("float16", (3,), 3),
        ("uint8", (1,) * 33, 1),
        ("uint8", (0, 2**62), 0),
        ("object", (1,), 8),
        ("", (1,), 1),
    ],
)
def test_what_does_not_fit_together_is_refused(
    dtype: str, shape: tuple[int, ...], size: int
) -> None:
    with pytest.raises(errors.InvalidRequestError):
        tensors.check(dtype, shape, size)


def test_a_mismatch_says_what_was_wanted_and_found() -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        tensors.check("float32", (2, 3), 23, field="extra_args.latents")
    assert caught.value.message == (
        "extra_args.latents of dtype float32 and shape (2, 3) must have 24 bytes; found 23"
    )


@hypothesis.given(
    strategies.integers(-1, 12),
    strategies.lists(strategies.integers(-(2**63), 2**63 - 1), max_size=40),
    strategies.binary(max_size=64),
)
def test_any_message_gives_a_tensor_or_a_typed_error(
    dtype: int, shape: list[int], data: bytes
) -> None:
    message = worker_pb2.Tensor(shape=shape, data=data)
    message.dtype = max(dtype, 0)  # type: ignore[assignment]  # numbers that are no members too
    try:
        result = tensors.from_message(message)
    except errors.InvalidRequestError:
        return
    assert result.to_numpy().shape == tuple(shape)


def test_the_wires_numbers_and_torchs_names_stand_for_each_other() -> None:
    for name in tensors.ITEM_SIZES:
        assert tensors.dtype_from_wire(tensors.dtype_to_wire(name)) == name


def test_torch_is_not_loaded_by_asking_for_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(RuntimeError, match="torch is not loaded"):
        tensors.TensorData("uint8", (1,), b"x").to_torch()
    assert "torch" not in sys.modules

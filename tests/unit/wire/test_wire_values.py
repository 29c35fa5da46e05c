import math
import struct

import hypothesis
import numpy
import PIL.Image
import pytest
import torch
from google.protobuf import message
from hypothesis import strategies

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images, tensors, values

texts = strategies.text(strategies.characters(exclude_categories=["Cs"]))
tensor_data = strategies.binary(max_size=40).map(
    lambda data: tensors.TensorData("uint8", (len(data),), data)
)
image_data = strategies.one_of(
    strategies.binary(min_size=1, max_size=40).map(
        lambda data: images.ImageData(data, "L", len(data), 1)
    ),
    strategies.binary(max_size=40).map(images.ImageData),
)
leaves = strategies.one_of(
    strategies.none(),
    strategies.booleans(),
    strategies.integers(),
    strategies.integers(min_value=-(2**2000), max_value=2**2000),
    strategies.floats(),
    texts,
    strategies.binary(),
    tensor_data,
    image_data,
)
anything = strategies.recursive(
    leaves,
    lambda children: strategies.one_of(
        strategies.lists(children),
        strategies.lists(children).map(tuple),
        strategies.dictionaries(texts, children),
    ),
    max_leaves=30,
)


def same(one: object, other: object) -> bool:
    """Compares types and bits: 1 is not True, 0.0 is not -0.0, NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def over_the_wire(value: object) -> object:
    data = values.encode(value).SerializeToString()
    return values.decode(worker_pb2.Value.FromString(data))


def nested(depth: int, *, kind: str) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": value} if kind == "dict" else [value]
    return value


def nested_message(depth: int) -> worker_pb2.Value:
    result = worker_pb2.Value()
    target = result
    for _ in range(depth):
        target = target.list.items.add()
    target.boolean = True
    return result


def big_integer(text: str) -> worker_pb2.Value:
    return worker_pb2.Value(big_integer=text)


def tensor_message(
    shape: list[int], data: bytes = b"", dtype: int = worker_pb2.DATA_TYPE_UINT8
) -> worker_pb2.Value:
    result = worker_pb2.Value()
    result.tensor.dtype = dtype  # type: ignore[assignment]  # numbers that are no members too
    result.tensor.shape.extend(shape)
    result.tensor.data = data
    return result


@hypothesis.given(anything)
def test_every_value_comes_back_with_its_types_and_bits(value: object) -> None:
    assert same(over_the_wire(value), value)


@pytest.mark.parametrize(
    "value",
    [
        0,
        2**63 - 1,
        2**63,
        -(2**63),
        -(2**63) - 1,
        2**63 - 25,
        10**3999,
        -(10**4000) + 1,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        5e-324,
        True,
        50,
        50.0,
        "",
        b"",
        [],
        (),
        {},
        [[], (), {}],
        {"": None},
        (1, [2, (3,)]),
    ],
)
def test_corner_cases_come_back_exactly(value: object) -> None:
    assert same(over_the_wire(value), value)


def test_bytearrays_and_memoryviews_come_back_as_bytes() -> None:
    strided = memoryview(b"abcdef")[::2]
    assert over_the_wire([bytearray(b"x"), memoryview(b"y"), strided]) == [b"x", b"y", b"ace"]


def test_numpy_arrays_come_back_as_tensors() -> None:
    array = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
    result = over_the_wire({"sigmas": array})
    assert isinstance(result, dict)
    assert (result["sigmas"].to_numpy() == array).all()


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        (numpy.float32(0.5), 0.5),
        (numpy.float64(0.5), 0.5),
        (numpy.int64(-7), -7),
        (numpy.uint64(2**64 - 1), 2**64 - 1),
        (numpy.bool_(True), True),
        (numpy.str_("text"), "text"),
    ],
)
def test_numpy_scalars_come_back_as_pythons_own(scalar: object, expected: object) -> None:
    assert same(over_the_wire(scalar), expected)


def test_torch_tensors_come_back_as_tensors() -> None:
    tensor = torch.tensor([[1.5, -2.0], [0.0, 3.0]], dtype=torch.bfloat16)
    result = over_the_wire(tensor)
    assert isinstance(result, tensors.TensorData)
    assert torch.equal(result.to_torch(), tensor)


def test_pillow_images_come_back_as_images() -> None:
    image = PIL.Image.new("RGB", (3, 2), (1, 2, 3))
    result = over_the_wire([image])
    assert isinstance(result, list)
    assert result[0].to_pil().tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"a": [1, {2, 3}]}, "extra.a[1]"),
        ({"a": {"b": object()}}, "extra.a.b"),
        ({"a": {1: 2}}, "extra.a"),
        ([1j], "extra[0]"),
        ([lambda: None], "extra[0]"),
        ({"k": "\ud800"}, "extra.k"),
        ({"\ud800": 1}, "extra"),
        ([numpy.array(["text"])], "extra[0]"),
        ([numpy.array([1j])], "extra[0]"),
        ([numpy.array([None])], "extra[0]"),
        ([numpy.datetime64("2020-01-01")], "extra[0]"),
        ([torch.ones(2, 2).to_sparse()], "extra[0]"),
        ([torch.ones(2, dtype=torch.complex64)], "extra[0]"),
        ([range(3)], "extra[0]"),
        ([10**4000], "extra[0]"),
        ([10**1_000_000], "extra[0]"),
    ],
)
def test_what_cannot_travel_is_refused_with_its_path(value: object, field: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        values.encode(value, field="extra")
    assert [violation.field for violation in caught.value.violations] == [field]


def test_the_type_that_cannot_travel_is_named_and_not_its_content() -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        values.encode({"a secret prompt"})
    assert "found set; send it as a list" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_32_levels_travel_inside_of_a_submit(kind: str) -> None:
    request = worker_pb2.SubmitGenerationRequest()
    value = nested(values.MAX_DEPTH, kind=kind)
    request.spec.extra_args["deep"].CopyFrom(values.encode(value))
    parsed = worker_pb2.SubmitGenerationRequest.FromString(request.SerializeToString())
    assert values.decode(parsed.spec.extra_args["deep"]) == value


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_33_levels_are_not_encoded(kind: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="at most 32 levels"):
        values.encode(nested(values.MAX_DEPTH + 1, kind=kind))


def test_33_levels_are_not_decoded() -> None:
    values.decode(nested_message(values.MAX_DEPTH))
    with pytest.raises(errors.InvalidRequestError, match="at most 32 levels"):
        values.decode(nested_message(values.MAX_DEPTH + 1))


def test_a_list_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(errors.InvalidRequestError, match="at most 32 levels"):
        values.encode(loop)


def test_shared_lists_do_not_explode() -> None:
    value: object = "x"
    for _ in range(30):
        value = [value] * 10
    with pytest.raises(errors.MessageTooLargeError, match="values in all"):
        values.encode(value, limits=values.ValueLimits(items=10_000))


@pytest.mark.parametrize(
    "value",
    [
        "x" * 101,
        b"x" * 101,
        ["x" * 60, b"x" * 60],
        {"x" * 101: 1},
        numpy.zeros(101, dtype=numpy.uint8),
        PIL.Image.new("L", (101, 1)),
    ],
)
def test_the_size_is_bounded_both_ways(value: object) -> None:
    small = values.ValueLimits(size=100)
    message = values.encode(value)
    with pytest.raises(errors.MessageTooLargeError, match="at most 100 bytes"):
        values.encode(value, limits=small)
    with pytest.raises(errors.MessageTooLargeError, match="at most 100 bytes"):
        values.decode(message, limits=small)


def test_the_number_of_values_is_bounded_when_decoding() -> None:
    message = values.encode([None] * 100)
    with pytest.raises(errors.MessageTooLargeError, match="at most 50 values"):
        values.decode(message, limits=values.ValueLimits(items=50))


@pytest.mark.parametrize(
    "text",
    ["9" * 4001, "9" * 1_000_000, "", "-", "0x10", "1e9", " 1", "1_0", "007", "-0", "٣", "+1"],
)
def test_big_integers_are_canonical_and_bounded(text: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="decimal integer of at most") as caught:
        values.decode(big_integer(text), field="extra_args.seed")
    assert len(caught.value.message) < 200


def test_a_value_of_no_known_kind_is_refused() -> None:
    # What a newer client sends looks like this, too.
    with pytest.raises(errors.InvalidRequestError, match=r"known kind; found none"):
        values.decode(worker_pb2.Value())


@pytest.mark.parametrize(
    "hostile",
    [
        tensor_message([2**40], b"x"),
        tensor_message([2**62, 2**62], b""),
        tensor_message([2**62, 0], b""),
        tensor_message([2**63 - 1] * 31, b"x" * 8),
        tensor_message([-1], b""),
        tensor_message([-1, -1], b"x"),
        tensor_message([3], b"ab"),
        tensor_message([3], b"abcd"),
        tensor_message([], b""),
        tensor_message([1] * 33, b"x"),
        tensor_message([1], b"x", worker_pb2.DATA_TYPE_UNSPECIFIED),
        tensor_message([1], b"x", 99),
        tensor_message([1], b"x", worker_pb2.DATA_TYPE_FLOAT64),
    ],
)
def test_a_tensor_that_lies_is_refused(hostile: worker_pb2.Value) -> None:
    data = hostile.SerializeToString()
    with pytest.raises(errors.InvalidRequestError, match=r"^extra_args\.x must|^extra_args\.x of"):
        values.decode(worker_pb2.Value.FromString(data), field="extra_args.x")


def try_to_decode(data: bytes) -> None:
    """Parses and decodes; only typed errors may come out of it."""
    try:
        parsed = worker_pb2.Value.FromString(data)
    except message.DecodeError:
        return
    try:
        decoded = values.decode(parsed)
    except errors.FixRequestError:
        return
    assert same(over_the_wire(decoded), decoded)


@hypothesis.given(strategies.binary())
def test_random_bytes_give_a_value_or_a_typed_error(data: bytes) -> None:
    try_to_decode(data)


@hypothesis.given(anything, strategies.data())
def test_a_truncated_value_gives_a_value_or_a_typed_error(
    value: object, data: strategies.DataObject
) -> None:
    whole = values.encode(value).SerializeToString()
    try_to_decode(whole[: data.draw(strategies.integers(0, len(whole)))])


@hypothesis.given(anything, strategies.data())
def test_a_value_with_flipped_bits_gives_a_value_or_a_typed_error(
    value: object, data: strategies.DataObject
) -> None:
    damaged = bytearray(values.encode(value).SerializeToString())
    if damaged:
        for _ in range(3):
            place = data.draw(strategies.integers(0, 8 * len(damaged) - 1))
            damaged[place // 8] ^= 1 << place % 8
    try_to_decode(bytes(damaged))


def test_a_long_key_is_cut_in_the_path() -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        values.encode({"k" * 100_000: object()})
    assert len(caught.value.message) < 500

import hypothesis
import pytest
from hypothesis import strategies

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import chunks, errors

SIZES = [1, 127, 128, 16_383, 16_384, chunks.CHUNK_SIZE, 2**21]


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_what_protobuf_would_write(size: int) -> None:
    data = bytes(size)
    expected = worker_pb2.FetchResultResponse(data=data).SerializeToString()
    assert chunks.frame_data(memoryview(data)) == expected


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_protobuf_is_read(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    frame = worker_pb2.FetchCheckpointResponse(data=data[:size]).SerializeToString()
    assert chunks.parse_data(frame) == data[:size]


def test_an_empty_message_holds_no_data() -> None:
    assert bytes(chunks.parse_data(b"")) == b""
    assert bytes(chunks.parse_data(chunks.frame_data(b""))) == b""


@hypothesis.given(strategies.binary(max_size=300))
def test_data_comes_back(data: bytes) -> None:
    assert chunks.parse_data(chunks.frame_data(bytearray(data))) == data


def test_a_frame_of_wide_items_counts_their_bytes() -> None:
    wide = memoryview(bytes(8)).cast("d")
    assert chunks.parse_data(chunks.frame_data(wide)) == bytes(8)


def test_data_is_not_copied_when_read() -> None:
    frame = chunks.frame_data(b"x" * 1000)
    assert chunks.parse_data(frame).obj is frame


@pytest.mark.parametrize(
    "frame",
    [
        b"\x0a",
        b"\x0a\x05abc",
        b"\x0a\x02abc",
        b"\x12\x00",
        b"\x0a" + b"\xff" * 20,
        b"\x0a" + b"\xff" * 9 + b"\x01",
        b"garbage",
    ],
)
def test_anything_but_data_alone_is_refused(frame: bytes) -> None:
    with pytest.raises(errors.CorruptDataError, match="must hold data alone"):
        chunks.parse_data(frame)


@hypothesis.given(strategies.binary(max_size=50))
def test_no_bytes_make_it_raise_anything_else(frame: bytes) -> None:
    try:
        data = chunks.parse_data(frame)
    except errors.CorruptDataError:
        return
    assert worker_pb2.FetchResultResponse.FromString(frame).data == data

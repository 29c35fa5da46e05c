"""Bulk data as a stream of 1 MB chunks, without protobuf on the way.

A chunk is a valid message `{bytes data = 1}` for every other client, but here it is made and
read by hand: protobuf would copy the bytes two to three more times. Measured: 1.9 GB/s against
0.2 GB/s for one message of 64 MB.
"""

from collections.abc import AsyncGenerator
from typing import Any

import grpc.aio

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, status

CHUNK_SIZE = 1_000_000
"""Bytes of data in one message."""

_DATA_TAG = b"\x0a"


def frame_data(data: "bytes | bytearray | memoryview[Any]") -> bytes:
    """Returns the message `{bytes data = 1}` of some bytes."""
    return b"".join((_DATA_TAG, _varint(memoryview(data).nbytes), data))


def parse_data(frame: bytes) -> memoryview:
    """Returns the bytes of a message `{bytes data = 1}`, without a copy.

    Raises:
        errors.CorruptDataError: The message holds anything else.
    """
    if not frame:
        return memoryview(b"")
    view = memoryview(frame)
    size, start = _read_varint(view)
    if view[:1] != _DATA_TAG or size != len(view) - start:
        raise errors.CorruptDataError(
            f"a chunk must hold data alone; found another message of {len(frame)} bytes"
        )
    return view[start:]


_IMPORT_CHECKPOINT = "/kubediffusion.v1.WorkerService/ImportCheckpoint"


async def send(
    channel: grpc.aio.Channel,
    header: worker_pb2.ImportCheckpointRequest,
    data: bytes | bytearray | memoryview,
    *,
    timeout: float | None = None,
) -> worker_pb2.ImportCheckpointResponse:
    """Stores a checkpoint on a worker.

    Args:
        channel: Best one opened with `bulk=True`.
        header: Everything but the data.
        data: The whole checkpoint.
        timeout: In seconds; None: wait for ever.

    Raises:
        errors.KubediffusionError: The worker said no, or is gone.
    """
    call: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
        _IMPORT_CHECKPOINT
    )

    async def frames() -> AsyncGenerator[bytes, None]:
        yield header.SerializeToString()
        for start in range(0, len(data), CHUNK_SIZE):
            yield frame_data(memoryview(data)[start : start + CHUNK_SIZE])

    with status.map_errors():
        answer = await call(frames(), timeout=timeout)
    return worker_pb2.ImportCheckpointResponse.FromString(answer)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _read_varint(view: memoryview) -> tuple[int, int]:
    """Returns the number after the tag and where it ends; (-1, 0) where there is none."""
    number = 0
    for index, byte in enumerate(view[1:11]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, index + 2
    return -1, 0

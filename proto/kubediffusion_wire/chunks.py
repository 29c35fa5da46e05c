"""Bulk data as a stream of 1 MB chunks, without protobuf on the way.

A chunk is a valid message `{bytes data = 1}` for every other client, but here it is made and
read by hand: protobuf would copy the bytes two to three more times. Measured: 1.9 GB/s against
0.2 GB/s for one message of 64 MB.
"""

import asyncio
import copy
import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc.aio
from google.protobuf import message as protobuf_message

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, status

CHUNK_SIZE = 1_000_000
"""Bytes of data in one message."""

MAX_SIZE = 8 * 2**30
"""Bytes of one result or checkpoint, at most, checked before memory is taken."""

_DATA_TAG = b"\x0a"

Header = TypeVar("Header", worker_pb2.Result, worker_pb2.CheckpointInfo)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkMethod(Generic[Header]):
    """One of the calls that stream a header and then data."""

    path: str
    parse: Callable[[bytes], worker_pb2.FetchResultResponse | worker_pb2.FetchCheckpointResponse]
    header_type: type[Header]


FETCH_RESULT = BulkMethod(
    path="/kubediffusion.v1.WorkerService/FetchResult",
    parse=worker_pb2.FetchResultResponse.FromString,
    header_type=worker_pb2.Result,
)
"""Reads a result; asked with a FetchResultRequest."""

FETCH_CHECKPOINT = BulkMethod(
    path="/kubediffusion.v1.WorkerService/FetchCheckpoint",
    parse=worker_pb2.FetchCheckpointResponse.FromString,
    header_type=worker_pb2.CheckpointInfo,
)
"""Reads a checkpoint; asked with a FetchCheckpointRequest."""


Request = worker_pb2.FetchResultRequest | worker_pb2.FetchCheckpointRequest


class Download(Generic[Header]):
    """Bulk data on its way in: one buffer of the final size, filled by one or more streams.

    Attributes:
        header: What the first stream began with; None before that.
        data: The bytes; only the first `received` of them are there yet.
        received: In bytes.
    """

    def __init__(
        self, method: BulkMethod[Header], request: Request, *, max_size: int = MAX_SIZE
    ) -> None:
        self.header: Header | None = None
        self.data = bytearray()
        self.received = 0
        self._method: BulkMethod[Header] = method
        self._request = request
        self._max_size = max_size
        self._digest = _Digest(self.data)

    @property
    def is_complete(self) -> bool:
        """True once all bytes are there; they still need `verify`."""
        return self.header is not None and self.received == self.header.size

    async def advance(self, channel: grpc.aio.Channel) -> None:
        """Goes on from where the last stream broke off, until the end of this one.

        What has been received stays when it raises, so that it can be called again, with the
        same channel or another.

        Raises:
            errors.KubediffusionError: The stream broke or its content makes no sense.
            errors.MessageTooLargeError: The header speaks of more than `max_size` bytes.
        """
        request = copy.deepcopy(self._request)
        request.offset = self.received
        if isinstance(request, worker_pb2.FetchCheckpointRequest) and isinstance(
            self.header, worker_pb2.CheckpointInfo
        ):
            # The rest of the same one, even if a newer one has been taken in the meantime.
            request.step = self.header.step
        # No serializers: bytes out, bytes in.
        stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            self._method.path
        )
        frames = status.map_stream(stream(request.SerializeToString()))
        try:
            await self._take_header(frames)
            async for frame in frames:
                self._take_data(frame)
        finally:
            await frames.aclose()
        if not self.is_complete:
            raise errors.CorruptDataError(
                f"the stream ended after {self.received} of {len(self.data)} bytes"
            )

    async def verify(self) -> None:
        """Compares the digest of all bytes with the header's.

        Raises:
            errors.CorruptDataError: It differs, or bytes are missing; everything received is
                dropped, so that a new attempt starts from the beginning.
        """
        if self.header is None or not self.is_complete:
            raise errors.CorruptDataError(
                f"wanted {len(self.data)} bytes; found {self.received}; fetch again"
            )
        found, wanted = await self._digest.of(self.received), self.header.sha256
        if found != wanted:
            self._reset()
            raise errors.CorruptDataError(
                f"wanted bytes with sha256 {wanted!r:.80}; found {found}; fetch again"
            )

    async def _take_header(self, frames: AsyncGenerator[bytes, None]) -> None:
        async for frame in frames:
            response = self._parse(frame)
            if not response.HasField("header"):
                raise errors.CorruptDataError("a stream must begin with a header; found data")
            assert isinstance(response.header, self._method.header_type)
            self._accept(response.header)
            return
        raise errors.CorruptDataError("a stream must begin with a header; found an empty one")

    def _accept(self, header: Header) -> None:
        if header.size < 0:
            raise errors.CorruptDataError(f"a size must be 0 or more; found {header.size}")
        if header.size > self._max_size:
            raise errors.MessageTooLargeError(
                f"wanted at most {self._max_size} bytes; found a header of {header.size}"
            )
        if self.header is None:
            self.data = bytearray(header.size)
            self._digest = _Digest(self.data)
        elif (header.size, header.sha256) != (self.header.size, self.header.sha256):
            self._reset()
            raise errors.CorruptDataError("the data changed between two streams; fetch again")
        self.header = header

    def _take_data(self, frame: bytes) -> None:
        try:
            data = parse_data(frame)
        except errors.CorruptDataError:
            # A newer worker may send more than data alone.
            data = memoryview(self._parse(frame).data)
        end = self.received + len(data)
        if end > len(self.data):
            raise errors.CorruptDataError(f"wanted {len(self.data)} bytes; found {end} or more")
        self.data[self.received : end] = data
        self.received = end
        self._digest.follow(end)

    def _parse(
        self, frame: bytes
    ) -> worker_pb2.FetchResultResponse | worker_pb2.FetchCheckpointResponse:
        try:
            return self._method.parse(frame)
        except protobuf_message.DecodeError as error:
            raise errors.CorruptDataError(
                f"a stream must hold protobuf messages; found {len(frame)} other bytes"
            ) from error

    def _reset(self) -> None:
        self.header = None
        self.data = bytearray()
        self.received = 0
        self._digest = _Digest(self.data)


class _Digest:
    """The sha256 of a buffer that fills up, made in a thread while more arrives."""

    _STRIDE = 4_000_000
    """Bytes that are worth a hop to a thread; hashing them takes 2 to 4 ms."""

    def __init__(self, data: bytearray) -> None:
        self._data = data
        self._hash = hashlib.sha256()
        self._end = 0
        self._pending: asyncio.Future[None] | None = None

    def follow(self, end: int) -> None:
        """Takes note that the buffer is filled up to `end`; never waits."""
        is_busy = self._pending is not None and not self._pending.done()
        if not is_busy and end - self._end >= self._STRIDE:
            self._pending = self._begin(end)

    async def of(self, end: int) -> str:
        """Returns the digest, hexadecimal, of the buffer up to `end`, its last byte."""
        if self._pending is not None:
            await self._pending
        await self._begin(end)
        return self._hash.hexdigest()

    def _begin(self, end: int) -> asyncio.Future[None]:
        piece = memoryview(self._data)[self._end : end]
        self._end = end
        return asyncio.get_running_loop().run_in_executor(None, self._hash.update, piece)


RESUME_DELAYS = (0.05, 0.2, 1.0)
"""Seconds before each new attempt at a stream that broke; progress starts them anew."""


async def fetch(
    channel: grpc.aio.Channel,
    method: BulkMethod[Header],
    request: Request,
    *,
    max_size: int = MAX_SIZE,
) -> tuple[Header, bytearray]:
    """Reads a result or checkpoint, resumes when the stream breaks, and checks its digest.

    Args:
        channel: Best one opened with `bulk=True`.
        method: FETCH_RESULT or FETCH_CHECKPOINT.
        request: Of the method; its offset is set here.
        max_size: In bytes; more is refused before memory is taken.

    Raises:
        errors.KubediffusionError: The worker said no, or is gone.
        errors.CorruptDataError: Not the bytes of the header's digest.
    """
    download = Download(method, request, max_size=max_size)
    delays = iter(RESUME_DELAYS)
    while not download.is_complete:
        before = download.received
        try:
            await download.advance(channel)
        except errors.RetryElsewhereError:
            if download.received > before:
                delays = iter(RESUME_DELAYS)
            delay = next(delays, None)
            if delay is None:
                raise
            await asyncio.sleep(delay)
    await download.verify()
    assert download.header is not None
    return download.header, download.data


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

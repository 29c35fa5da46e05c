"""Bulk data on its way in: read in threads, resumed where a stream breaks, and checked.

This is the one place that uses gRPC's synchronous client: for streams of 1 MB messages it
takes about half the CPU time of grpc.aio's, and a thread of its own can hash each piece while
it is still in the processor's cache and gRPC receives the next one.
"""

import asyncio
import contextlib
import copy
import hashlib
import mmap
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import grpc
from google.protobuf import message as protobuf_message

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import channels, chunks, errors, status

MAX_SIZE = 8 * 2**30
"""Bytes of one result or checkpoint, at most, checked before memory is taken."""

RESUME_DELAYS = (0.05, 0.2, 1.0)
"""Seconds before each new attempt at a stream that broke; progress starts them anew."""

THREADS = 2
"""Downloads of one reader that run at the same time, at most; others wait for their turn."""

PAGES_SIZE = 32 * 2**20
"""Bytes from which on a buffer gets pages of its own: glibc never reuses memory for so much."""

Header = TypeVar("Header", worker_pb2.Result, worker_pb2.CheckpointInfo)
Request = worker_pb2.FetchResultRequest | worker_pb2.FetchCheckpointRequest
Response = worker_pb2.FetchResultResponse | worker_pb2.FetchCheckpointResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkMethod(Generic[Header]):
    """One of the calls that stream a header and then data."""

    path: str
    parse: Callable[[bytes], Response]
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


class Download(Generic[Header]):
    """One result or checkpoint: a buffer of the final size, filled by one or more streams.

    Attributes:
        header: What the first stream began with; None before that.
        data: The bytes; only the first `received` of them are there yet.
        received: In bytes.
    """

    def __init__(
        self, method: BulkMethod[Header], request: Request, *, max_size: int = MAX_SIZE
    ) -> None:
        self.header: Header | None = None
        self.data = memoryview(b"")
        self.received = 0
        self._method: BulkMethod[Header] = method
        self._request = request
        self._max_size = max_size
        self._digest = hashlib.sha256()

    @property
    def path(self) -> str:
        """The method to call for a stream."""
        return self._method.path

    @property
    def is_complete(self) -> bool:
        """True once all bytes are there; they still need `verify`."""
        return self.header is not None and self.received == self.header.size

    def request(self) -> bytes:
        """Returns what to ask for, serialized: everything from `received` on."""
        request = copy.deepcopy(self._request)
        request.offset = self.received
        if isinstance(request, worker_pb2.FetchCheckpointRequest) and isinstance(
            self.header, worker_pb2.CheckpointInfo
        ):
            # The rest of the same one, even if a newer one has been taken in the meantime.
            request.step = self.header.step
        return request.SerializeToString()

    def take(self, frames: Iterable[bytes]) -> None:
        """Goes on from where the last stream broke off, until the end of this one.

        What has been received stays when it raises, so that it can be called again with
        another stream. Blocks while the frames do.

        Raises:
            errors.KubediffusionError: The stream broke or its content makes no sense.
            errors.MessageTooLargeError: The header speaks of more than `max_size` bytes.
        """
        with status.map_errors():
            arriving = iter(frames)
            self._take_header(arriving)
            for frame in arriving:
                self._take_data(frame)
        if not self.is_complete:
            raise errors.CorruptDataError(
                f"the stream ended after {self.received} of {len(self.data)} bytes"
            )

    def verify(self) -> None:
        """Compares the digest of all bytes with the header's.

        Raises:
            errors.CorruptDataError: It differs, or bytes are missing; everything received is
                dropped, so that a new attempt starts from the beginning.
        """
        if self.header is None or not self.is_complete:
            raise errors.CorruptDataError(
                f"wanted {len(self.data)} bytes; found {self.received}; fetch again"
            )
        found, wanted = self._digest.hexdigest(), self.header.sha256
        if found != wanted:
            self._reset()
            raise errors.CorruptDataError(
                f"wanted bytes with sha256 {wanted!r:.80}; found {found}; fetch again"
            )

    def _take_header(self, frames: Iterator[bytes]) -> None:
        frame = next(frames, None)
        if frame is None:
            raise errors.CorruptDataError("a stream must begin with a header; found an empty one")
        response = self._parse(frame)
        if not response.HasField("header"):
            raise errors.CorruptDataError("a stream must begin with a header; found data")
        assert isinstance(response.header, self._method.header_type)
        self._accept(response.header)

    def _accept(self, header: Header) -> None:
        if header.size < 0:
            raise errors.CorruptDataError(f"a size must be 0 or more; found {header.size}")
        if header.size > self._max_size:
            raise errors.MessageTooLargeError(
                f"wanted at most {self._max_size} bytes; found a header of {header.size}"
            )
        if self.header is None:
            self.data = _buffer(header.size)
        elif (header.size, header.sha256) != (self.header.size, self.header.sha256):
            self._reset()
            raise errors.CorruptDataError("the data changed between two streams; fetch again")
        self.header = header

    def _take_data(self, frame: bytes) -> None:
        try:
            piece = chunks.parse_data(frame)
        except errors.CorruptDataError:
            # A newer worker may send more than data alone.
            piece = memoryview(self._parse(frame).data)
        end = self.received + len(piece)
        if end > len(self.data):
            raise errors.CorruptDataError(f"wanted {len(self.data)} bytes; found {end} or more")
        self.data[self.received : end] = piece
        self.received = end
        # Other threads run meanwhile, gRPC's among them: they receive the next piece.
        self._digest.update(piece)

    def _parse(self, frame: bytes) -> Response:
        try:
            return self._method.parse(frame)
        except protobuf_message.DecodeError as error:
            raise errors.CorruptDataError(
                f"a stream must hold protobuf messages; found {len(frame)} other bytes"
            ) from error

    def _reset(self) -> None:
        self.header = None
        self.data = memoryview(b"")
        self.received = 0
        self._digest = hashlib.sha256()


class _Stream(Protocol):
    """What is used of a call that streams."""

    def __iter__(self) -> Iterator[bytes]: ...
    def cancel(self) -> object: ...


class Reader:
    """Downloads from one address, over a connection of its own, in a few threads.

    Used on one event loop. gRPC connects with the first download and again after a loss.

    Args:
        address: `host:port` or `unix:/path`.
        tls: Mutual TLS; never used on a Unix socket.
        insecure: Allows plaintext to another machine.

    Raises:
        errors.InvalidRequestError: No such address, or plaintext that is not allowed.
        errors.UntrustedPeerError: A TLS file cannot be read.
    """

    def __init__(
        self, address: str, *, tls: channels.TlsFiles | None = None, insecure: bool = False
    ) -> None:
        self._channel = channels.open_reading_channel(address, tls=tls, insecure=insecure)
        self._threads = futures.ThreadPoolExecutor(THREADS, thread_name_prefix="kd-download")
        self._streams: set[_Stream] = set()
        self._is_closed = False

    async def fetch(
        self, method: BulkMethod[Header], request: Request, *, max_size: int = MAX_SIZE
    ) -> tuple[Header, memoryview]:
        """Reads a result or checkpoint, resumes when the stream breaks, and checks its digest.

        Args:
            method: FETCH_RESULT or FETCH_CHECKPOINT.
            request: Of the method; its offset is set here.
            max_size: In bytes; more is refused before memory is taken.

        Raises:
            errors.KubediffusionError: The worker said no, or is gone, or this was closed.
            errors.CorruptDataError: Not the bytes of the header's digest.
        """
        download = Download(method, request, max_size=max_size)
        delays = iter(RESUME_DELAYS)
        while not download.is_complete:
            before = download.received
            try:
                await self.advance(download)
            except errors.RetryElsewhereError:
                if download.received > before:
                    delays = iter(RESUME_DELAYS)
                delay = next(delays, None)
                if delay is None or self._is_closed:
                    raise
                await asyncio.sleep(delay)
        download.verify()
        assert download.header is not None
        return download.header, download.data

    async def advance(self, download: Download[Header]) -> None:
        """Reads one stream of a download, from where the last one broke off.

        When the caller is cancelled, the stream is, and its thread soon lets go of it.

        Raises:
            errors.KubediffusionError: As `Download.take`, or this was closed.
        """
        if self._is_closed:
            raise errors.WorkerGoneError("this end closed the connection before the call")
        # No serializers: bytes out, bytes in.
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(
            download.path
        )
        stream: _Stream = call(download.request())
        self._streams.add(stream)
        try:
            with status.map_errors():
                await asyncio.get_running_loop().run_in_executor(
                    self._threads, download.take, stream
                )
        finally:
            stream.cancel()
            self._streams.discard(stream)

    async def close(self) -> None:
        """Breaks off what is under way, with `WorkerGoneError`; threads end soon. Idempotent."""
        self._is_closed = True
        for stream in tuple(self._streams):
            stream.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._channel.close()


def _buffer(size: int) -> memoryview:
    if size < PAGES_SIZE:
        return memoryview(bytearray(size))
    # A bytearray is first filled with zeros, page by page of 4 KB.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)

"""Bulk data that a runtime in this process hands out and takes in, in pieces."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import chunks, errors

Response = TypeVar("Response", worker_pb2.FetchResultResponse, worker_pb2.FetchCheckpointResponse)


class Assembly(Generic[Response]):
    """Puts the frames of a result or a checkpoint together.

    Args:
        kind: Class of the messages.
    """

    def __init__(self, kind: type[Response]) -> None:
        self._kind: type[Response] = kind
        self._first: Response | None = None
        self._data = bytearray()
        self._received = 0

    def take(self, frame: Response | bytes | memoryview) -> None:
        """Add the next frame.

        Raises:
            CorruptDataError: There are more bytes than the header says.
        """
        if self._first is None:
            self._begin(frame)
            return
        if isinstance(frame, bytes | memoryview):
            chunk = chunks.parse_data(bytes(frame))
        else:
            chunk = memoryview(frame.data)
        end = self._received + len(chunk)
        if end > len(self._data):
            raise errors.CorruptDataError(f"wanted {len(self._data)} bytes; found {end} or more")
        self._data[self._received : end] = chunk
        self._received = end

    async def verified(self) -> tuple[Response, bytearray]:
        """Return the message with the header, and all data.

        Raises:
            CorruptDataError: It is not what the header says.
        """
        if self._first is None or self._received != self._first.header.size:
            raise errors.CorruptDataError(
                f"wanted {len(self._data)} bytes; found {self._received}; fetch again"
            )
        # In a thread: hashing lets go of the interpreter, and the loop has other calls.
        digest = (await asyncio.to_thread(hashlib.sha256, self._data)).hexdigest()
        wanted = self._first.header.sha256
        if digest != wanted:
            raise errors.CorruptDataError(
                f"wanted bytes with sha256 {wanted!r:.80}; found {digest}"
            )
        return self._first, self._data

    def _begin(self, frame: Response | bytes | memoryview) -> None:
        if isinstance(frame, bytes | memoryview):
            frame = self._kind.FromString(bytes(frame))
        self._first = frame
        self._data = bytearray(frame.header.size)


async def messages(
    header: worker_pb2.ImportCheckpointRequest, data: bytes | bytearray | memoryview
) -> AsyncIterator[worker_pb2.ImportCheckpointRequest]:
    """Yield a checkpoint as the messages of an import."""
    yield header
    for start in range(0, len(data), chunks.CHUNK_SIZE):
        piece = bytes(memoryview(data)[start : start + chunks.CHUNK_SIZE])
        yield worker_pb2.ImportCheckpointRequest(data=piece)

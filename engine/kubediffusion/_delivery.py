"""Results between worker and user: in memory while there is room, in files beyond it."""

from __future__ import annotations

import asyncio
import collections
import logging
from typing import TYPE_CHECKING

from kubediffusion import errors

if TYPE_CHECKING:
    import pathlib

    from kubediffusion import _output, _record, _results
    from kubediffusion._links import protocol

logger = logging.getLogger(__name__)

INLINE_BYTES = 65_536
"""A smaller file is written and read on the event loop: a thread would take longer."""


class Delivery:
    """Keeps results until they are asked for.

    With kept files every result is on disk before its worker may forget it. Without them a
    result that has to leave the memory before anybody asked for it goes to a temporary
    folder, so that memory stays bounded and no result is lost.

    Args:
        files: Where results are kept; None: nowhere.
        cache_bytes: Bytes of results in memory.
    """

    def __init__(self, files: _results.ResultFiles | None, *, cache_bytes: int) -> None:
        self.is_durable = files is not None
        self._kept = files
        self._spilled: _results.ResultFiles | None = None
        self._spill_folder: pathlib.Path | None = None
        self._cache_bytes = cache_bytes
        self._cached: collections.OrderedDict[str, _record.Record] = collections.OrderedDict()
        self._size = 0

    @property
    def cached_bytes(self) -> int:
        """Bytes of results in memory."""
        return self._size

    async def keep(self, record: _record.Record, fetched: protocol.FetchedResult) -> bool:
        """Take a fetched result; return whether it outlives this process."""
        is_kept = self._kept is not None
        try:
            if self._kept is not None:
                await _store(self._kept, record.request_id, fetched.data)
        except errors.JournalError as error:
            logger.error(
                "result is kept in memory alone",
                extra={"generation": record.request_id, "cause": error.message},
            )
            is_kept = False
        record.header = fetched.header
        self._cache(record, fetched.data)
        await self._shrink()
        return is_kept

    async def output(self, record: _record.Record) -> _output.OmniRequestOutput:
        """Return the outcome of a request that has ended."""
        if record.output is not None:
            if record.request_id in self._cached:
                self._cached.move_to_end(record.request_id)
            return record.output
        if record.error is not None:
            return _failed(record, record.error)
        try:
            data = await self._load(record)
        except errors.EvictedError as error:
            # Another listener may have fetched it back in the meantime.
            return record.output or _failed(record, error)
        if self._kept is None:
            return self._take_back(record, data)
        return _succeeded(record, data)

    def forget(self, record: _record.Record) -> None:
        """Let go of what is in memory of a request."""
        if self._cached.pop(record.request_id, None) is not None and record.output is not None:
            self._size -= record.output.size
        record.output = None

    def remove(self, request_ids: list[str]) -> None:
        """Delete kept results."""
        if self._kept is not None:
            self._kept.remove(request_ids)

    def close(self) -> None:
        """Delete what was spilled. Idempotent."""
        folder, self._spill_folder = self._spill_folder, None
        if folder is not None:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)

    def _cache(self, record: _record.Record, data: bytes | bytearray | memoryview) -> None:
        record.output = _succeeded(record, data)
        self._cached[record.request_id] = record
        self._size += len(data)

    def _take_back(self, record: _record.Record, data: bytearray) -> _output.OmniRequestOutput:
        """Hold in memory again what was spilled; somebody is about to be given it."""
        if record.output is None:
            self._cache(record, data)
        if self._spilled is not None:
            self._spilled.remove([record.request_id])
        assert record.output is not None
        return record.output

    async def _shrink(self) -> None:
        while self._size > self._cache_bytes and len(self._cached) > 1:
            _, record = self._cached.popitem(last=False)
            output = record.output
            if output is None:
                continue
            self._size -= output.size
            if not (self.is_durable or record.is_delivered):
                try:
                    await _store(self._spill(), record.request_id, output.data)
                except errors.JournalError as error:
                    logger.error("result stays in memory", extra={"cause": error.message})
                    continue
            record.output = None

    def _spill(self) -> _results.ResultFiles:
        if self._spilled is None:
            import pathlib
            import tempfile

            from kubediffusion import _results

            self._spill_folder = pathlib.Path(tempfile.mkdtemp(prefix="kubediffusion-"))
            self._spilled = _results.ResultFiles(self._spill_folder)
        return self._spilled

    async def _load(self, record: _record.Record) -> bytearray:
        files = self._kept or self._spilled
        header = record.header
        if files is None or header is None:
            raise errors.EvictedError(
                f"the result of {record.request_id!r} was given out before and is not kept; "
                "set state_dir to keep results"
            )
        if header.size <= INLINE_BYTES:
            return files.load(record.request_id, size=header.size, sha256=header.sha256)
        return await asyncio.to_thread(
            files.load, record.request_id, size=header.size, sha256=header.sha256
        )


async def _store(
    files: _results.ResultFiles, request_id: str, data: bytes | bytearray | memoryview
) -> None:
    if len(data) <= INLINE_BYTES:
        files.store(request_id, data)
    else:
        await asyncio.to_thread(files.store, request_id, data)


def _succeeded(
    record: _record.Record, data: bytes | bytearray | memoryview
) -> _output.OmniRequestOutput:
    from kubediffusion import _output  # Late: an engine starts without results.

    return _output.OmniRequestOutput(
        record.request_id,
        prompt=record.prompt,
        output_type=record.output_type,
        header=record.header,
        data=data,
        worker=record.worker,
        attempt=record.tracker.attempt,
    )


def _failed(record: _record.Record, error: errors.KubediffusionError) -> _output.OmniRequestOutput:
    from kubediffusion import _output  # Late: an engine starts without results.

    return _output.OmniRequestOutput(
        record.request_id,
        prompt=record.prompt,
        output_type=record.output_type,
        worker=record.worker,
        attempt=record.tracker.attempt,
        error=error,
    )

"""Checkpoints of unfinished generations: the newest of each, in files or in memory.

With a state folder they outlive this process: the bytes are in files beside the journal, and
the journal says which. Without one, or where the disk is full, they are in memory, within a
bound. A checkpoint that is read back has the digest that it was announced with, or is none.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from kubediffusion import _changes, errors

if TYPE_CHECKING:
    from kubediffusion import _record, _settings

logger = logging.getLogger(__name__)

INLINE_BYTES = 65_536
"""A smaller file is written and read on the event loop: a thread would take longer."""


Data = bytes | bytearray | memoryview


class CheckpointFiles:
    """Bytes of checkpoints in a folder. Blocking; made for a thread beside the event loop.

    Args:
        folder: Is created when it is needed.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def store(self, checkpoint: _changes.Checkpoint, data: Data) -> None:
        """Keep a checkpoint; after a crash of the machine, too, it is whole or not there.

        Raises:
            JournalError: The disk is full or cannot be written.
        """
        path = self._path(checkpoint)
        scratch = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise errors.JournalError(
                f"cannot keep a checkpoint in {str(self._folder)!r}: {error.strerror}; free space"
            ) from error

    def load(self, checkpoint: _changes.Checkpoint) -> bytearray:
        """Read a checkpoint back.

        Raises:
            EvictedError: It is not there any more, or not as it was.
        """
        try:
            path = self._path(checkpoint)
            data = bytearray(path.read_bytes() if path.stat().st_size == checkpoint.size else b"")
        except OSError as error:
            raise errors.EvictedError(f"a checkpoint is gone: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
            raise errors.EvictedError("a kept checkpoint is damaged")
        return data

    def remove(self, checkpoint: _changes.Checkpoint) -> None:
        """Delete a checkpoint; what is not there is no error."""
        with contextlib.suppress(OSError):
            self._path(checkpoint).unlink(missing_ok=True)

    def remove_others(self, known: Iterable[_changes.Checkpoint]) -> None:
        """Delete what a crash left behind that the journal does not know."""
        names = {self._path(checkpoint).name for checkpoint in known}
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.name not in names:
                    path.unlink(missing_ok=True)

    def _path(self, checkpoint: _changes.Checkpoint) -> pathlib.Path:
        # An id may be longer than a file name, and differ from others by case alone.
        owner = hashlib.sha256(checkpoint.request_id.encode()).hexdigest()[:40]
        return self._folder / f"{owner}-{checkpoint.sha256[:24]}.safetensors"


class Shelf:
    """Keeps the newest checkpoints of every unfinished request. Belongs to the event loop.

    Args:
        policy: Bounds.
        files: Where they are kept; None: in memory alone.
        write: Journals a change of a request; tells whether that worked.
    """

    def __init__(
        self,
        policy: _settings.CheckpointPolicy,
        files: CheckpointFiles | None,
        write: Callable[[_record.Record, _changes.Change], bool],
    ) -> None:
        self.policy = policy
        self._files = files
        self._write = write
        self._memory: dict[tuple[str, str], Data] = {}
        self._order: collections.OrderedDict[
            tuple[str, str], tuple[_record.Record, _changes.Checkpoint]
        ] = collections.OrderedDict()
        self._file_bytes = self._memory_bytes = 0
        self._is_failing = False

    @property
    def file_bytes(self) -> int:
        """In `state_dir`."""
        return self._file_bytes

    @property
    def memory_bytes(self) -> int:
        """In memory."""
        return self._memory_bytes

    def recall(
        self, records: Collection[_record.Record], found: Iterable[_changes.Checkpoint]
    ) -> None:
        """Take note of what an earlier start kept, oldest first."""
        by_id = {record.request_id: record for record in records}
        known = [checkpoint for checkpoint in found if checkpoint.request_id in by_id]
        if self._files is not None:
            self._files.remove_others(known)
        for checkpoint in known:
            record = by_id[checkpoint.request_id]
            record.checkpoints = (checkpoint, *record.checkpoints)
            self._order[_key(checkpoint)] = record, checkpoint
            self._file_bytes += checkpoint.size

    async def put(
        self, record: _record.Record, checkpoint: _changes.Checkpoint, data: Data
    ) -> None:
        """Keep the newest checkpoint of a request, in place of its oldest one.

        Raises:
            RetentionFullError: There is no room for it.
        """
        self.check_size(checkpoint.size)
        if _key(checkpoint) in self._order:
            return
        if not await self._put_file(checkpoint, data):
            self._put_memory(checkpoint, data)
        self._order[_key(checkpoint)] = record, checkpoint
        if record.is_ended:
            self._drop(record, checkpoint)
            return
        if _key(checkpoint) not in self._memory:
            self._write(record, checkpoint)
        kept = (checkpoint, *record.checkpoints)
        record.checkpoints = kept[: self.policy.keep]
        for old in kept[self.policy.keep :]:
            self._drop(record, old)

    def check_size(self, size: int) -> None:
        """Refuse a checkpoint that is too large.

        Raises:
            RetentionFullError: It is.
        """
        if size > self.policy.max_bytes:
            raise errors.RetentionFullError(
                f"a checkpoint of {size} bytes is over the limit of {self.policy.max_bytes}; "
                "raise checkpoint['max_bytes']"
            )

    async def load(self, checkpoint: _changes.Checkpoint) -> Data:
        """Return the bytes of a kept checkpoint.

        Raises:
            EvictedError: They are there no longer, or damaged.
        """
        data = self._memory.get(_key(checkpoint))
        if data is not None:
            return data
        if self._files is None or _key(checkpoint) not in self._order:
            raise errors.EvictedError("a checkpoint is not kept any more")
        if checkpoint.size <= INLINE_BYTES:
            return self._files.load(checkpoint)
        return await asyncio.to_thread(self._files.load, checkpoint)

    def drop(self, record: _record.Record, checkpoint: _changes.Checkpoint) -> None:
        """Keep a checkpoint no longer."""
        record.checkpoints = tuple(each for each in record.checkpoints if each != checkpoint)
        self._drop(record, checkpoint)

    def drop_all(self, record: _record.Record) -> None:
        """Keep nothing of a request that has ended."""
        dropped, record.checkpoints = record.checkpoints, ()
        for checkpoint in dropped:
            self._drop(record, checkpoint)

    async def _put_file(self, checkpoint: _changes.Checkpoint, data: Data) -> bool:
        files = self._files
        if files is None:
            return False
        if not self._make_room(checkpoint.size, in_memory=False):
            self._note_failure(f"checkpoints take all of {self.policy.total_bytes} bytes")
            return False
        self._file_bytes += checkpoint.size
        try:
            if len(data) <= INLINE_BYTES:
                files.store(checkpoint, data)
            else:
                await asyncio.to_thread(files.store, checkpoint, data)
        except errors.JournalError as error:
            self._file_bytes -= checkpoint.size
            self._note_failure(error.message)
            return False
        self._is_failing = False
        return True

    def _put_memory(self, checkpoint: _changes.Checkpoint, data: Data) -> None:
        if not self._make_room(checkpoint.size, in_memory=True):
            where = "" if self._files is None else ", and state_dir has none"
            raise errors.RetentionFullError(
                f"there is no room in memory for a checkpoint of {checkpoint.size} bytes{where}; "
                "the generation goes on without it"
            )
        self._memory[_key(checkpoint)] = data
        self._memory_bytes += checkpoint.size

    def _make_room(self, size: int, *, in_memory: bool) -> bool:
        """Drop the oldest checkpoints that are not the newest ones of their generation."""
        limit = self.policy.memory_bytes if in_memory else self.policy.total_bytes
        for key, (record, checkpoint) in list(self._order.items()):
            if (self._memory_bytes if in_memory else self._file_bytes) + size <= limit:
                break
            is_spare = record.checkpoints[:1] != (checkpoint,)
            if is_spare and (key in self._memory) is in_memory:
                self.drop(record, checkpoint)
        return (self._memory_bytes if in_memory else self._file_bytes) + size <= limit

    def _drop(self, record: _record.Record, checkpoint: _changes.Checkpoint) -> None:
        if self._order.pop(_key(checkpoint), None) is None:
            return
        if self._memory.pop(_key(checkpoint), None) is not None:
            self._memory_bytes -= checkpoint.size
            return
        self._file_bytes -= checkpoint.size
        change = _changes.CheckpointDropped(checkpoint.request_id, checkpoint.sha256)
        self._write(record, change)
        if self._files is None:
            return
        if checkpoint.size <= INLINE_BYTES:
            self._files.remove(checkpoint)
        else:
            # Nothing waits for it: what a crash leaves behind goes with the next start.
            loop = asyncio.get_running_loop()
            _ = loop.run_in_executor(None, self._files.remove, checkpoint)

    def _note_failure(self, cause: str) -> None:
        if not self._is_failing:
            logger.error("checkpoints are kept in memory alone", extra={"cause": cause})
        self._is_failing = True


def _key(checkpoint: _changes.Checkpoint) -> tuple[str, str]:
    return checkpoint.request_id, checkpoint.sha256

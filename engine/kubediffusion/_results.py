"""Results as files beside the journal, so that they can be asked for after a restart."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterable

from kubediffusion import errors


class ResultFiles:
    """Bytes of results by request id.

    Blocking; made for a thread beside the event loop. Calls for different ids do not get
    into each other's way.

    Args:
        folder: Is created when it is needed.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def store(self, request_id: str, data: bytes | bytearray | memoryview) -> None:
        """Keep a result; it is there whole or not at all.

        Raises:
            JournalError: The disk is full or cannot be written.
        """
        path = self.path(request_id)
        scratch = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with open(
                os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"
            ) as file:
                file.write(data)
            scratch.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise errors.JournalError(
                f"cannot keep a result in {str(self._folder)!r}: {error.strerror}; free space, "
                "or set keep_results=False"
            ) from error

    def load(self, request_id: str, *, size: int, sha256: str) -> bytearray:
        """Read a result back.

        Raises:
            EvictedError: It is not there any more, or not as it was.
        """
        try:
            data = bytearray(self.path(request_id).read_bytes())
        except OSError as error:
            raise errors.EvictedError(
                f"the result of {request_id!r} is not kept any more: {error.strerror}"
            ) from error
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise errors.EvictedError(f"the kept result of {request_id!r} is damaged")
        return data

    def remove(self, request_ids: Iterable[str]) -> None:
        """Delete results; what is not there is no error."""
        for request_id in request_ids:
            with contextlib.suppress(OSError):
                self.path(request_id).unlink(missing_ok=True)

    def path(self, request_id: str) -> pathlib.Path:
        """Return where a result is, or would be."""
        # An id may be longer than a file name, and differ from others by case alone.
        return self._folder / (hashlib.sha256(request_id.encode()).hexdigest()[:40] + ".bin")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

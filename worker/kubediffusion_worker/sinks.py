"""A folder of checkpoints: what a worker that was killed leaves to the next one.

A file's name tells the generation (a digest of its ids), the step and the sha256 of the bytes,
so that a file is known to be whole or of no use. It appears by a rename, after its bytes have
reached the disk. All of this blocks: `saving.Writer` has a thread for it.
"""

import contextlib
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import checkpoints, identity

T = TypeVar("T")

KEEP_SECONDS = 7 * 86_400.0
"""Age from which a file is removed, whoever wrote it: its engine has not come back."""

TEMPORARY_SECONDS = 3600.0
"""Age from which a file that was never finished is removed."""

MAX_FILE_BYTES = 8 * 2**30
"""Bytes of a file, at most; larger ones are not read."""

_NAME = re.compile(r"([0-9a-f]{32})-([0-9]{8})-([0-9a-f]{64})\.checkpoint")
_TEMPORARY = ".part"


@dataclass(frozen=True, slots=True)
class _File:
    path: pathlib.Path
    step: int
    sha256: str
    written_at: float


class Folder:
    """The checkpoints in a folder, which several workers may share."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def write(
        self, key: identity.GenerationKey, info: worker_pb2.CheckpointInfo, data: bytes
    ) -> None:
        """Add a checkpoint, and remove those of the same generation but the newest two.

        Raises:
            OSError: It cannot be written; nothing of it is left.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{_stem(key)}-{info.step:08d}-{info.sha256}.checkpoint"
        temporary = self.path / f".{name}.{os.getpid()}{_TEMPORARY}"
        try:
            _write_through(temporary, data)
            temporary.rename(self.path / name)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(self.path)
        for file in self._files(key)[checkpoints.KEPT :]:
            _remove(file.path)

    def find(self, key: identity.GenerationKey, fits: Callable[[bytes], T | None]) -> T | None:
        """Return what `fits` makes of the newest whole checkpoint that it accepts."""
        for file in self._files(key):
            data = _read(file)
            found = fits(data) if data is not None else None
            if found is not None:
                return found
        return None

    def remove(self, key: identity.GenerationKey) -> None:
        """Remove the checkpoints of a generation."""
        for file in self._files(key):
            _remove(file.path)

    def tidy(self, now: float) -> None:
        """Remove what is too old; `now` is in Unix seconds."""
        for entry, age in self._ages(now):
            is_old = _NAME.fullmatch(entry.name) and age > KEEP_SECONDS
            is_left = entry.name.endswith(_TEMPORARY) and age > TEMPORARY_SECONDS
            if is_old or is_left:
                _remove(pathlib.Path(entry.path))

    def _files(self, key: identity.GenerationKey) -> list[_File]:
        """List the checkpoints of a generation, the newest first."""
        stem = _stem(key)
        found = []
        for entry, age in self._ages(0.0):
            match = _NAME.fullmatch(entry.name)
            if match and match[1] == stem:
                found.append(_File(pathlib.Path(entry.path), int(match[2]), match[3], -age))
        return sorted(found, key=lambda file: (file.written_at, file.step), reverse=True)

    def _ages(self, now: float) -> Iterator[tuple["os.DirEntry[str]", float]]:
        try:
            entries = list(os.scandir(self.path))
        except OSError:
            return  # There is none yet, or it cannot be read: it offers nothing.
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    yield entry, now - entry.stat(follow_symlinks=False).st_mtime


def _stem(key: identity.GenerationKey) -> str:
    # Ids may be longer than names of files, and may hold what some file systems refuse.
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]


def _write_through(path: pathlib.Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(file: _File) -> bytes | None:
    """Return the bytes of a file; None where they are not those that its name tells."""
    try:
        if file.path.stat().st_size > MAX_FILE_BYTES:
            return None
        data = file.path.read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == file.sha256 else None


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()

"""A private folder for the Unix sockets of workers that belong to an engine."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator

from kubediffusion import errors

logger = logging.getLogger(__name__)

MAX_PATH_BYTES = 99
"""Of a socket's path; kernels allow 103 (macOS) to 107 (Linux) with names of ours in it."""

_PREFIX = "kubediffusion-mp-"
_LOCK = "lock"
_LONGEST_NAME = "worker-9999.sock"


class SocketFolder:
    """A new folder of mode 0700 that is removed on `close`, or at the end of this process.

    The folder is locked for the life of this process, so that folders that were left behind
    by killed engines are recognized and removed by the next one, across containers too.

    Raises:
        ConfigError: No folder for temporary files has a path that is short enough.
    """

    def __init__(self) -> None:
        parent = _parent()
        _remove_leftovers(parent)
        self.path, lock = _locked_folder(parent)
        self._remove = weakref.finalize(self, _remove, self.path, lock, os.getpid())

    def socket(self, name: str) -> pathlib.Path:
        """Return the path of a worker's socket, with nothing there."""
        path = self.path / f"{name}.sock"
        path.unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """Remove the folder with all that is in it. Idempotent."""
        self._remove()


def _remove(path: pathlib.Path, lock: int, process_id: int) -> None:
    if os.getpid() == process_id:  # A forked child ends without touching its parent's files.
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def _locked_folder(parent: pathlib.Path) -> tuple[pathlib.Path, int]:
    while True:
        path = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (path / _LOCK).exists():
            return path, lock
        os.close(lock)  # Another engine took the folder for a leftover before it was locked.


def _parent() -> pathlib.Path:
    candidates = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp"]
    for candidate in candidates:
        path = pathlib.Path(candidate or "/nonexistent", f"{_PREFIX}12345678", _LONGEST_NAME)
        if len(os.fsencode(path)) <= MAX_PATH_BYTES and os.access(candidate, os.W_OK):
            return pathlib.Path(candidate)
    raise errors.ConfigError(
        f"no folder for temporary files is writable and has a short path (sockets need less than "
        f"{MAX_PATH_BYTES + 1} bytes); tried {', '.join(filter(None, candidates))}; set TMPDIR"
    )


def _remove_leftovers(parent: pathlib.Path) -> None:
    for folder in _own_folders(parent):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Held by a living engine.
                shutil.rmtree(folder, ignore_errors=True)
                logger.debug("removed sockets of a dead engine", extra={"folder": folder.name})
            finally:
                os.close(lock)


def _own_folders(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    with os.scandir(parent) as entries:
        for entry in entries:
            if not entry.name.startswith(_PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                    yield pathlib.Path(entry.path)

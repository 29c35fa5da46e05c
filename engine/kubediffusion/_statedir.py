"""The folder in which one engine keeps its journal and its results.

It belongs to one process at a time, by a lock that the system releases when the process
dies, and to one user: folders are 0700, files 0600.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import time

from kubediffusion import errors

LOCK_SECONDS = 3.0
"""How long a start waits for a predecessor that is just ending."""

_NETWORK_FILE_SYSTEMS = frozenset(
    {
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    }
)


class InUseError(errors.JournalError):
    """Is raised when another process has the folder."""


class StateDir:
    """An engine's own folder, locked for this process.

    Args:
        root: The configured `state_dir`; may hold the folders of several engines.
        engine_id: Names the folder.
        journal_mode: "auto", "wal" or "rollback".
        patience: Seconds to wait for a predecessor that is just ending.

    Raises:
        JournalError: Another process uses it, it cannot be written, or it is on a network
            file system and `journal_mode` is not "rollback".
    """

    def __init__(
        self,
        root: pathlib.Path,
        engine_id: str,
        *,
        journal_mode: str,
        patience: float = LOCK_SECONDS,
    ) -> None:
        self.folder = folder_of(root, engine_id)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.uses_wal = _uses_wal(self.folder, journal_mode)
            self._lock: int | None = _lock(self.folder / "lock", engine_id, patience)
        except OSError as error:
            raise errors.JournalError(
                f"cannot use the state_dir {str(self.folder)!r}: {error.strerror or error}"
            ) from error

    @property
    def journal(self) -> pathlib.Path:
        """The file of the journal."""
        return self.folder / "journal.sqlite3"

    @property
    def results(self) -> pathlib.Path:
        """The folder of results."""
        return self.folder / "results"

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    def close(self) -> None:
        """Let another process have the folder. Idempotent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def folder_of(root: pathlib.Path, engine_id: str) -> pathlib.Path:
    """Return the folder of one engine below a `state_dir`."""
    return root / f"engine-{engine_id}"


def create_file(path: pathlib.Path) -> None:
    """Create a file that only this user may read, where there is none."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def file_system(path: pathlib.Path, mounts: str) -> str:
    """Return the type of the file system that a folder is on; empty where it is unknown.

    Args:
        path: Absolute, without links.
        mounts: The text of /proc/self/mountinfo, see proc_pid_mountinfo(5).
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        columns = fields.split(" ")
        if len(columns) < 5 or not rest:
            continue
        point = pathlib.PurePosixPath(columns[4].encode().decode("unicode_escape"))
        depth = len(point.parts)
        # Of two at the same place the later one covers the earlier one.
        if path.is_relative_to(point) and depth >= best:
            best, kind = depth, rest.split(" ")[0]
    return kind


def _uses_wal(folder: pathlib.Path, journal_mode: str) -> bool:
    if journal_mode == "rollback":
        return False
    try:
        mounts = pathlib.Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:  # Not Linux; nothing is known.
        return True
    kind = file_system(folder.resolve(), mounts)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise errors.JournalError(
            f"the state_dir {str(folder)!r} is on a network file system ({kind}), where SQLite's "
            "write-ahead log loses data; use a local folder, or journal_mode='rollback'"
        )
    return True


def _lock(path: pathlib.Path, engine_id: str, patience: float) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise InUseError(
                f"another engine with engine_id {engine_id!r} uses this state_dir (process "
                f"{holder}); stop it, or give this engine another engine_id"
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return file

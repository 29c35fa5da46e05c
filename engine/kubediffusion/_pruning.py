"""Making room in a `state_dir` while no engine uses it, which is when nobody else does."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubediffusion import _checkpoints, _journal, _results, _statedir, errors

if TYPE_CHECKING:
    from kubediffusion import _changes

NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What stays."""

    seconds: float
    """After their end, outcomes and results are kept so long."""
    max_bytes: int
    """Of the results of one engine; the oldest go first."""
    abandoned_seconds: float | None = None
    """Engines that nobody has used for so long go whole, unfinished generations too; None:
    none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What came of one engine's folder."""

    engine_id: str
    folder: str
    requests: int = 0
    """Outcomes that were forgotten."""
    files: int = 0
    """Results and checkpoints that were deleted."""
    freed_bytes: int = 0
    kept_bytes: int = 0
    unfinished: int = 0
    """Generations that an engine with this id will go on with."""
    is_removed: bool = False
    """The engine was abandoned, and its folder is gone."""
    problem: str = ""
    """Why nothing was done here."""
    is_in_use: bool = False
    """Because an engine is running, which does it for itself."""


def folders(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of all engines below a `state_dir`, sorted.

    Raises:
        JournalError: It is no `state_dir`.
    """
    if not root.is_dir():
        raise errors.JournalError(f"there is no folder {str(root)!r}")
    prefix = _statedir.folder_of(root, "").name
    found = sorted(path for path in root.glob(f"{prefix}*") if (path / "lock").is_file())
    if not found and any(root.iterdir()):
        raise errors.JournalError(
            f"the folder {str(root)!r} holds no engine's state; name the state_dir of an engine"
        )
    return found


def prune(folder: pathlib.Path, retention: Retention, *, is_dry: bool = False) -> Pruned:
    """Delete from one engine's folder what need not stay.

    Args:
        folder: One of `folders`.
        retention: What stays.
        is_dry: Tell what would be deleted, and delete nothing.
    """
    engine_id = folder.name.removeprefix(_statedir.folder_of(folder, "").name)
    before = _bytes_of(folder)
    try:
        with contextlib.closing(
            # Without a log beside it, which few files are worth here.
            _statedir.StateDir(folder.parent, engine_id, journal_mode="rollback", patience=0.0)
        ) as state:
            if _is_abandoned(state, retention):
                if not is_dry:
                    shutil.rmtree(folder)
                return Pruned(
                    engine_id=engine_id, folder=str(folder), freed_bytes=before, is_removed=True
                )
            return _prune(state, engine_id, retention, before, is_dry=is_dry)
    except errors.JournalError as error:
        return Pruned(
            engine_id=engine_id,
            folder=str(folder),
            kept_bytes=before,
            problem=error.message,
            is_in_use=isinstance(error, _statedir.InUseError),
        )


def _is_abandoned(state: _statedir.StateDir, retention: Retention) -> bool:
    if retention.abandoned_seconds is None:
        return False
    files = [state.journal, state.journal.with_name(state.journal.name + "-wal")]
    times = [path.stat().st_mtime for path in files if path.exists()]
    return max(times, default=0.0) < time.time() - retention.abandoned_seconds


def _prune(
    state: _statedir.StateDir,
    engine_id: str,
    retention: Retention,
    before: int,
    *,
    is_dry: bool,
) -> Pruned:
    with _journal_of(state, is_dry=is_dry) as journal:
        forgotten = journal.prune(
            ended_before=time.time() - retention.seconds,
            max_count=NO_LIMIT,
            max_bytes=retention.max_bytes,
        )
        results = list(_surplus_results(state, journal))
        checkpoints = journal.checkpoints()
        unfinished = sum(1 for _ in journal.unfinished())
    count, size = _surplus_checkpoints(state, checkpoints)
    size += sum(path.stat().st_size for path in results)
    if not is_dry:
        for path in results:
            path.unlink(missing_ok=True)
        _checkpoints.CheckpointFiles(state.checkpoints).remove_others(checkpoints)
        _compact(state.journal)
        size = max(0, before - _bytes_of(state.folder))
    return Pruned(
        engine_id=engine_id,
        folder=str(state.folder),
        requests=len(forgotten),
        files=len(results) + count,
        freed_bytes=size,
        kept_bytes=before - size,
        unfinished=unfinished,
    )


def _surplus_results(
    state: _statedir.StateDir, journal: _journal.SqliteJournal
) -> Iterator[pathlib.Path]:
    """Yield the files that the journal does not know, or not any more."""
    files = _results.ResultFiles(state.results)
    known = {files.path(entry.request_id) for entry in journal.unfinished()}
    known |= {files.path(entry.request_id) for entry in journal.finished(NO_LIMIT)}
    if state.results.is_dir():
        yield from (path for path in sorted(state.results.iterdir()) if path not in known)


def _surplus_checkpoints(
    state: _statedir.StateDir, known: Sequence[_changes.Checkpoint]
) -> tuple[int, int]:
    """Return how many files of checkpoints are not needed, and their bytes."""
    if not state.checkpoints.is_dir():
        return 0, 0
    files = list(state.checkpoints.iterdir())
    size = sum(path.stat().st_size for path in files)
    return max(0, len(files) - len(known)), max(0, size - sum(each.size for each in known))


@contextlib.contextmanager
def _journal_of(state: _statedir.StateDir, *, is_dry: bool) -> Iterator[_journal.SqliteJournal]:
    """Open the journal, or a copy that can be tried on."""
    with contextlib.ExitStack() as stack:
        path = state.journal
        if is_dry:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="kubediffusion-"))
            path = pathlib.Path(scratch) / path.name
            _copy(state.journal, path)
        yield stack.enter_context(contextlib.closing(_journal.SqliteJournal(path, uses_wal=False)))


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    try:
        _statedir.create_file(target)
        with (
            contextlib.closing(sqlite3.connect(source)) as original,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            original.backup(copy)
    except (sqlite3.Error, OSError) as error:
        raise errors.JournalError(f"cannot read the journal {str(source)!r}: {error}") from error


def _compact(journal: pathlib.Path) -> None:
    """Give the space of deleted rows back."""
    try:
        with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as database:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise errors.JournalError(
            f"cannot compact the journal {str(journal)!r}: {error}"
        ) from error


def _bytes_of(folder: pathlib.Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return 0

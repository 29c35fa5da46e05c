"""What an engine remembers of its requests, in SQLite.

With a state folder it is a file that survives kill -9 at any point: every write is one
transaction in WAL mode. Without one it is the same database in memory. The engine writes
before it submits, after a worker accepted, and before it acknowledges. The SQL is plain, so
that another database can stand behind the same few methods.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from kubediffusion import _changes, _statedir, _tables, errors

if TYPE_CHECKING:
    import pathlib

FORMAT = 1
"""Of the tables; raised when a release changes them."""


class Journal(Protocol):
    """What the engine needs of a journal; belongs to one thread at a time.

    All methods raise `JournalError` where the storage fails.
    """

    @property
    def is_durable(self) -> bool:
        """Whether it outlives this process."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch of the newest start; 0 before the first."""
        ...

    def raise_epoch(self, epoch: int) -> None:
        """Store the epoch of this start."""
        ...

    def write(self, changes: Sequence[_changes.Change]) -> None:
        """Store all of the changes or none."""
        ...

    def read(self, request_id: str) -> _changes.Entry | None:
        """Return one request."""
        ...

    def unfinished(self) -> Iterator[_changes.Entry]:
        """Return all requests that have not ended, oldest first."""
        ...

    def finished(self, limit: int) -> Iterator[_changes.Entry]:
        """Return the requests that ended last, newest first."""
        ...

    def checkpoints(self) -> list[_changes.Checkpoint]:
        """Return the kept checkpoints of unfinished requests, oldest first."""
        ...

    def prune(self, *, ended_before: float, max_count: int, max_bytes: int) -> list[str]:
        """Forget old outcomes; return their request ids."""
        ...

    def close(self) -> None:
        """Release the storage. Idempotent."""
        ...


class SqliteJournal:
    """A journal in a file of a state folder, or in memory.

    Args:
        path: The database; None: in memory.
        uses_wal: False where the file system cannot share memory between processes.

    Raises:
        JournalError: The file is of a newer release, broken, or cannot be written.
    """

    def __init__(self, path: pathlib.Path | None = None, *, uses_wal: bool = True) -> None:
        self.is_durable = path is not None
        self._where = str(path) if path is not None else "memory"
        self._is_closed = False
        self._process_id = os.getpid()
        with self._translated("open"):
            if path is not None:
                _statedir.create_file(path)
            # The loop's thread uses what the constructor's thread opens.
            self._database = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._prepare(uses_wal=uses_wal)

    def _prepare(self, *, uses_wal: bool) -> None:
        run = self._database.execute
        if self.is_durable and uses_wal:
            run("PRAGMA journal_mode = WAL")
            # A commit survives the death of this process; only that of the machine may
            # cost the newest ones, and then the local workers are gone too.
            run("PRAGMA synchronous = NORMAL")
        with self._transaction():
            for statement in _tables.SCHEMA:
                run(statement)
            run("INSERT OR IGNORE INTO meta VALUES ('format', ?), ('epoch', 0)", (FORMAT,))
            present = {row[1] for row in run("PRAGMA table_info(request)")}
            for name, kind in _tables.LATER_COLUMNS.items():
                if name not in present:
                    run(f"ALTER TABLE request ADD COLUMN {name} {kind}")
        found = self._meta("format")
        if found != FORMAT:
            self.close()
            raise errors.JournalError(
                f"the journal {self._where!r} has format {found}, this release reads {FORMAT}; "
                "use the release that wrote it, or another state_dir"
            )

    @property
    def epoch(self) -> int:
        """The epoch of the newest start; 0 before the first."""
        with self._translated("read"):
            return self._meta("epoch")

    def raise_epoch(self, epoch: int) -> None:
        """Store the epoch of this start."""
        with self._translated("write"), self._transaction():
            self._database.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (epoch,))

    def write(self, changes: Sequence[_changes.Change]) -> None:
        """Store all of the changes or none."""
        with self._translated("write"):
            if len(changes) == 1:
                _tables.apply(
                    self._database, changes[0]
                )  # One statement is a transaction of its own.
                return
            with self._transaction():
                for change in changes:
                    _tables.apply(self._database, change)

    def read(self, request_id: str) -> _changes.Entry | None:
        """Return one request."""
        query = f"SELECT {_tables.COLUMNS} FROM request WHERE request_id = ?"
        with self._translated("read"):
            row = self._database.execute(query, (request_id,)).fetchone()
        return None if row is None else _tables.entry_of(row)

    def unfinished(self) -> Iterator[_changes.Entry]:
        """Return all requests that have not ended, oldest first."""
        query = (
            f"SELECT {_tables.COLUMNS} FROM request WHERE ending IS NULL ORDER BY submitted, rowid"
        )
        with self._translated("read"):
            yield from map(_tables.entry_of, self._database.execute(query))

    def finished(self, limit: int) -> Iterator[_changes.Entry]:
        """Return the requests that ended last, newest first."""
        query = (
            f"SELECT {_tables.COLUMNS} FROM request WHERE ended IS NOT NULL "
            "ORDER BY ended DESC, rowid DESC LIMIT ?"
        )
        with self._translated("read"):
            yield from map(_tables.entry_of, self._database.execute(query, (limit,)))

    def checkpoints(self) -> list[_changes.Checkpoint]:
        """Return the kept checkpoints of unfinished requests, oldest first."""
        query = (
            f"SELECT {_tables.CHECKPOINT_COLUMNS} FROM checkpoint WHERE request_id IN "
            "(SELECT request_id FROM request WHERE ending IS NULL) ORDER BY rowid"
        )
        with self._translated("read"):
            return [_changes.Checkpoint(*row) for row in self._database.execute(query)]

    def prune(self, *, ended_before: float, max_count: int, max_bytes: int) -> list[str]:
        """Forget old outcomes; return their request ids.

        Args:
            ended_before: Unix time; what ended earlier goes.
            max_count: Outcomes that stay, at most; the newest do.
            max_bytes: Bytes of results that stay, at most.
        """
        query = """
            SELECT request_id FROM (
                SELECT request_id, ended,
                    row_number() OVER newest AS number,
                    sum(result_size) OVER newest AS bytes
                FROM request WHERE ended IS NOT NULL
                WINDOW newest AS (ORDER BY ended DESC, rowid DESC)
            ) WHERE ended < ? OR number > ? OR bytes > ?"""
        with self._translated("prune"), self._transaction():
            rows = self._database.execute(query, (ended_before, max_count, max_bytes)).fetchall()
            self._database.executemany("DELETE FROM request WHERE request_id = ?", rows)
            self._database.execute(
                "DELETE FROM checkpoint WHERE request_id NOT IN "
                "(SELECT request_id FROM request WHERE ending IS NULL)"
            )
        return [row[0] for row in rows]

    def close(self) -> None:
        """Release the file. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        # A forked child must not: to close its copy would take the locks from the parent.
        if os.getpid() == self._process_id:
            self._database.close()

    def _meta(self, name: str) -> int:
        row = self._database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(row[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # A full disk may have ended it already.
                self._database.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        if self._is_closed:
            raise errors.JournalError("the journal was closed with its engine")
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError) as error:
            raise errors.JournalError(
                f"cannot {action} the journal {self._where!r}: {error}; free space or give the "
                "engine another state_dir"
            ) from error

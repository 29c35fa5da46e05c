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
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kubediffusion import _statedir, errors

if TYPE_CHECKING:
    import pathlib

FORMAT = 1
"""Of the tables; raised when a release changes them."""

MAX_KEPT_SPEC_BYTES = 65_536
"""A larger request, which holds pictures, is dropped from the journal at its end."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS request (
        request_id TEXT PRIMARY KEY,
        digest TEXT NOT NULL,
        spec BLOB,
        priority INTEGER NOT NULL,
        deadline REAL,
        min_exactness INTEGER NOT NULL,
        submitted REAL NOT NULL,
        attempt INTEGER NOT NULL,
        strikes INTEGER NOT NULL,
        worker TEXT NOT NULL,
        incarnation TEXT NOT NULL,
        is_accepted INTEGER NOT NULL,
        is_cancelling INTEGER NOT NULL,
        ending TEXT,
        ended REAL,
        error BLOB,
        result BLOB,
        result_size INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX IF NOT EXISTS request_by_ended ON request (ended)",
)
_COLUMNS = (
    "request_id, digest, spec, priority, deadline, min_exactness, submitted, attempt, strikes, "
    "worker, incarnation, is_accepted, is_cancelling, ending, ended, error, result"
)


@dataclass(slots=True, kw_only=True)
class Entry:
    """One request as the journal has it."""

    request_id: str
    digest: str
    """sha256 of the specification, hexadecimal."""
    spec: bytes | None
    """The serialized specification; None where it is not known, or no longer needed."""
    priority: int = 0
    deadline: float | None = None
    """Unix time."""
    min_exactness: int = 0
    submitted: float = 0.0
    """Unix time."""
    attempt: int = 1
    strikes: int = 0
    worker: str = ""
    incarnation: str = ""
    """Of the worker it was last handed to; empty while it waits for one."""
    is_accepted: bool = False
    is_cancelling: bool = False
    ending: str | None = None
    """"succeeded", "failed", "cancelled"; None while it has not ended."""
    ended: float | None = None
    """Unix time."""
    error: bytes | None = None
    """A serialized `Error`, of one that failed."""
    result: bytes | None = None
    """A serialized `Result`, of one that succeeded."""


class Added(NamedTuple):
    """A request was taken."""

    entry: Entry


class Claimed(NamedTuple):
    """The content of a request that was known by its id alone."""

    request_id: str
    digest: str
    spec: bytes


class Waiting(NamedTuple):
    """No worker has the request any more."""

    request_id: str
    attempt: int
    strikes: int


class Placed(NamedTuple):
    """A worker is about to get the request."""

    request_id: str
    worker: str
    incarnation: str
    attempt: int


class Accepted(NamedTuple):
    """A worker has the request."""

    request_id: str
    worker: str
    incarnation: str


class Cancelling(NamedTuple):
    """The user wants no result."""

    request_id: str


class Ended(NamedTuple):
    """The outcome."""

    request_id: str
    ending: str
    ended: float
    error: bytes | None = None
    result: bytes | None = None
    result_size: int = 0


Change = Added | Claimed | Waiting | Placed | Accepted | Cancelling | Ended


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

    def write(self, changes: Sequence[Change]) -> None:
        """Store all of the changes or none."""
        ...

    def read(self, request_id: str) -> Entry | None:
        """Return one request."""
        ...

    def unfinished(self) -> Iterator[Entry]:
        """Return all requests that have not ended, oldest first."""
        ...

    def finished(self, limit: int) -> Iterator[Entry]:
        """Return the requests that ended last, newest first."""
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
            for statement in _SCHEMA:
                run(statement)
            run("INSERT OR IGNORE INTO meta VALUES ('format', ?), ('epoch', 0)", (FORMAT,))
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

    def write(self, changes: Sequence[Change]) -> None:
        """Store all of the changes or none."""
        with self._translated("write"):
            if len(changes) == 1:
                self._apply(changes[0])  # One statement is a transaction of its own.
                return
            with self._transaction():
                for change in changes:
                    self._apply(change)

    def read(self, request_id: str) -> Entry | None:
        """Return one request."""
        query = f"SELECT {_COLUMNS} FROM request WHERE request_id = ?"
        with self._translated("read"):
            row = self._database.execute(query, (request_id,)).fetchone()
        return None if row is None else _entry(row)

    def unfinished(self) -> Iterator[Entry]:
        """Return all requests that have not ended, oldest first."""
        query = f"SELECT {_COLUMNS} FROM request WHERE ending IS NULL ORDER BY submitted, rowid"
        with self._translated("read"):
            yield from map(_entry, self._database.execute(query))

    def finished(self, limit: int) -> Iterator[Entry]:
        """Return the requests that ended last, newest first."""
        query = (
            f"SELECT {_COLUMNS} FROM request WHERE ended IS NOT NULL "
            "ORDER BY ended DESC, rowid DESC LIMIT ?"
        )
        with self._translated("read"):
            yield from map(_entry, self._database.execute(query, (limit,)))

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

    def _apply(self, change: Change) -> None:
        run = self._database.execute
        match change:
            case Added(entry):
                self._insert(entry)
            case Claimed(request_id, digest, spec):
                run(
                    "UPDATE request SET digest = ?, spec = ? WHERE request_id = ?",
                    (digest, spec, request_id),
                )
            case Waiting(request_id, attempt, strikes):
                run(
                    "UPDATE request SET worker = '', incarnation = '', is_accepted = 0, "
                    "attempt = ?, strikes = ? WHERE request_id = ?",
                    (attempt, strikes, request_id),
                )
            case Placed(request_id, worker, incarnation, attempt):
                run(
                    "UPDATE request SET worker = ?, incarnation = ?, is_accepted = 0, "
                    "attempt = ? WHERE request_id = ?",
                    (worker, incarnation, attempt, request_id),
                )
            case Accepted(request_id, worker, incarnation):
                run(
                    "UPDATE request SET worker = ?, incarnation = ?, is_accepted = 1 "
                    "WHERE request_id = ?",
                    (worker, incarnation, request_id),
                )
            case Cancelling(request_id):
                run("UPDATE request SET is_cancelling = 1 WHERE request_id = ?", (request_id,))
            case Ended():
                self._end(change)

    def _insert(self, entry: Entry) -> None:
        self._database.execute(
            f"INSERT INTO request ({_COLUMNS}) VALUES ({', '.join('?' * 17)})",
            (
                entry.request_id,
                entry.digest,
                entry.spec,
                entry.priority,
                entry.deadline,
                entry.min_exactness,
                entry.submitted,
                entry.attempt,
                entry.strikes,
                entry.worker,
                entry.incarnation,
                entry.is_accepted,
                entry.is_cancelling,
                entry.ending,
                entry.ended,
                entry.error,
                entry.result,
            ),
        )

    def _end(self, change: Ended) -> None:
        self._database.execute(
            "UPDATE request SET ending = ?, ended = ?, error = ?, result = ?, result_size = ?, "
            "spec = CASE WHEN length(spec) > ? THEN NULL ELSE spec END "
            "WHERE request_id = ? AND ending IS NULL",
            (
                change.ending,
                change.ended,
                change.error,
                change.result,
                change.result_size,
                MAX_KEPT_SPEC_BYTES,
                change.request_id,
            ),
        )

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


def _entry(row: tuple[object, ...]) -> Entry:
    names = _COLUMNS.split(", ")
    values = dict(zip(names, row, strict=True))
    for name in ("is_accepted", "is_cancelling"):
        values[name] = bool(values[name])
    return Entry(**values)  # type: ignore[arg-type]  # the columns have the fields' types

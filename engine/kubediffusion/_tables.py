"""The tables of the journal, and the statement for every change. Plain SQL alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kubediffusion import _changes

if TYPE_CHECKING:
    import sqlite3

MAX_KEPT_SPEC_BYTES = 65_536
"""A larger request, which holds pictures, is dropped from the journal at its end."""

SCHEMA = (
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
    """CREATE TABLE IF NOT EXISTS checkpoint (
        request_id TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        step INTEGER NOT NULL,
        size INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        format INTEGER NOT NULL,
        home TEXT NOT NULL,
        worker TEXT NOT NULL,
        PRIMARY KEY (request_id, sha256)
    )""",
)
LATER_COLUMNS = {
    "is_paused": "INTEGER NOT NULL DEFAULT 0",
    "deaths": "TEXT NOT NULL DEFAULT '[]'",
}
"""Of requests: added to the tables of earlier releases, which do not look at them."""
NAMES = tuple(field.name for field in fields(_changes.Entry))
COLUMNS = ", ".join(NAMES)
CHECKPOINT_COLUMNS = ", ".join(_changes.Checkpoint._fields)
_FLAGS = ("is_accepted", "is_cancelling", "is_paused")

_INSERT = f"INSERT INTO request ({COLUMNS}) VALUES (:{', :'.join(NAMES)})"
_STATEMENTS: Mapping[type[Any], str] = {  # Any: its key
    _changes.Claimed: (
        "UPDATE request SET digest = :digest, spec = :spec WHERE request_id = :request_id"
    ),
    _changes.Waiting: (
        "UPDATE request SET worker = '', incarnation = '', is_accepted = 0, attempt = :attempt, "
        "strikes = :strikes, deaths = :deaths WHERE request_id = :request_id"
    ),
    _changes.Placed: (
        "UPDATE request SET worker = :worker, incarnation = :incarnation, is_accepted = 0, "
        "attempt = :attempt WHERE request_id = :request_id"
    ),
    _changes.Accepted: (
        "UPDATE request SET worker = :worker, incarnation = :incarnation, is_accepted = 1 "
        "WHERE request_id = :request_id"
    ),
    _changes.Cancelling: "UPDATE request SET is_cancelling = 1 WHERE request_id = :request_id",
    _changes.Paused: "UPDATE request SET is_paused = :is_paused WHERE request_id = :request_id",
    _changes.Checkpoint: (
        f"INSERT OR REPLACE INTO checkpoint VALUES (:{', :'.join(_changes.Checkpoint._fields)})"
    ),
    _changes.CheckpointDropped: (
        "DELETE FROM checkpoint WHERE request_id = :request_id AND sha256 = :sha256"
    ),
    _changes.Ended: (
        "UPDATE request SET ending = :ending, ended = :ended, error = :error, result = :result, "
        "result_size = :result_size, "
        f"spec = CASE WHEN length(spec) > {MAX_KEPT_SPEC_BYTES} THEN NULL ELSE spec END "
        "WHERE request_id = :request_id AND ending IS NULL"
    ),
}


def apply(database: sqlite3.Connection, change: _changes.Change) -> None:
    """Carry out one change."""
    if isinstance(change, _changes.Added):
        entry = change.entry
        database.execute(_INSERT, {name: getattr(entry, name) for name in NAMES})
    else:
        database.execute(_STATEMENTS[type(change)], change._asdict())


def entry_of(row: tuple[object, ...]) -> _changes.Entry:
    """Return an entry of a row with `COLUMNS`."""
    values = dict(zip(NAMES, row, strict=True))
    for name in _FLAGS:
        values[name] = bool(values[name])
    return _changes.Entry(**values)  # type: ignore[arg-type]  # columns have the fields' types

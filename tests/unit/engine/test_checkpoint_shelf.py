"""Which checkpoints an engine keeps, and what becomes of their files."""

import asyncio
import hashlib
import pathlib
from collections.abc import Sequence

import pytest

from kubediffusion import _changes, _checkpoints, _journal, _record, _settings, _tracker, errors


def a_record(name: str = "r") -> _record.Record:
    return _record.Record(name, tracker=_tracker.Tracker(), submitted=0.0)


def a_checkpoint(data: bytes, name: str = "r", step: int = 1) -> _changes.Checkpoint:
    return _changes.Checkpoint(
        request_id=name,
        sha256=hashlib.sha256(data).hexdigest(),
        step=step,
        size=len(data),
        fingerprint="f",
        format=1,
        home="f",
        worker="a",
    )


def put(shelf: _checkpoints.Shelf, record: _record.Record, *contents: bytes) -> None:
    async def all_of_them() -> None:
        for step, data in enumerate(contents, 1):
            await shelf.put(record, a_checkpoint(data, record.request_id, step), data)

    asyncio.run(all_of_them())


def in_memory(**bounds: int) -> _checkpoints.Shelf:
    policy = _settings.CheckpointPolicy(**bounds)  # type: ignore[arg-type]  # names of fields
    return _checkpoints.Shelf(policy, None, lambda *_: True)


def in_files(
    folder: pathlib.Path, journal: _journal.SqliteJournal, **bounds: int
) -> _checkpoints.Shelf:
    def write(record: _record.Record, change: _changes.Change) -> bool:
        journal.write([change])
        return True

    policy = _settings.CheckpointPolicy(**bounds)  # type: ignore[arg-type]  # names of fields
    return _checkpoints.Shelf(policy, _checkpoints.CheckpointFiles(folder), write)


def steps(record: _record.Record) -> list[int]:
    return [checkpoint.step for checkpoint in record.checkpoints]


def test_newest_two_stay() -> None:
    shelf, record = in_memory(), a_record()
    put(shelf, record, b"1", b"22", b"333")
    assert steps(record) == [3, 2]
    assert shelf.memory_bytes == 5


def test_spare_checkpoints_make_room_before_the_newest_of_any_generation() -> None:
    shelf, first, second = in_memory(memory_bytes=6), a_record("r1"), a_record("r2")
    put(shelf, first, b"11", b"22")
    put(shelf, second, b"333")
    assert (steps(first), steps(second)) == ([2], [1])
    with pytest.raises(errors.RetentionFullError, match="no room"):
        put(shelf, a_record("r3"), b"4444")
    assert (steps(first), steps(second)) == ([2], [1])


def test_large_checkpoint_is_refused() -> None:
    with pytest.raises(errors.RetentionFullError, match="max_bytes"):
        put(in_memory(max_bytes=3), a_record(), b"4444")


def test_checkpoint_of_a_request_that_has_just_ended_is_not_kept(tmp_path: pathlib.Path) -> None:
    journal = _journal.SqliteJournal()
    shelf, record = in_files(tmp_path, journal), a_record()
    record.tracker.phase = _tracker.Phase.ENDED
    put(shelf, record, b"1")
    assert (list(tmp_path.iterdir()), shelf.file_bytes) == ([], 0)
    journal.close()


def test_next_start_finds_what_is_whole_and_deletes_what_nobody_knows(
    tmp_path: pathlib.Path,
) -> None:
    journal = _journal.SqliteJournal()
    journal.write([_changes.Added(_changes.Entry(request_id="r", digest="d", spec=b""))])
    put(in_files(tmp_path, journal), a_record(), b"1" * 100, b"2" * 100_000)
    (tmp_path / "left-behind.new").write_bytes(b"half a checkpoint")
    record, shelf = a_record(), in_files(tmp_path, journal)
    shelf.recall([record], journal.checkpoints())
    assert steps(record) == [2, 1]
    assert len(list(tmp_path.iterdir())) == 2
    assert shelf.file_bytes == 100_100
    loaded = asyncio.run(shelf.load(record.checkpoints[0]))
    assert loaded == b"2" * 100_000
    journal.close()


@pytest.mark.parametrize("damage", [b"", b"1" * 99, b"1" * 99 + b"?", b"1" * 101])
def test_damaged_file_is_refused(tmp_path: pathlib.Path, damage: bytes) -> None:
    journal = _journal.SqliteJournal()
    shelf, record = in_files(tmp_path, journal), a_record()
    put(shelf, record, b"1" * 100)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    with pytest.raises(errors.EvictedError):
        asyncio.run(shelf.load(record.checkpoints[0]))
    journal.close()


def test_full_folder_leaves_the_rest_to_memory(tmp_path: pathlib.Path) -> None:
    journal = _journal.SqliteJournal()
    shelf = in_files(tmp_path, journal, total_bytes=3)
    records: Sequence[_record.Record] = [a_record("r1"), a_record("r2")]
    for record in records:
        put(shelf, record, b"22")
    assert (shelf.file_bytes, shelf.memory_bytes) == (2, 2)
    for record in records:
        assert asyncio.run(shelf.load(record.checkpoints[0])) == b"22"
        shelf.drop_all(record)
    assert (shelf.file_bytes, shelf.memory_bytes) == (0, 0)
    assert list(tmp_path.iterdir()) == []
    journal.close()


def test_journal_of_an_earlier_release_gets_the_new_columns(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "journal.sqlite3"
    journal = _journal.SqliteJournal(path)
    for name in ("is_paused", "deaths"):
        journal._database.execute(f"ALTER TABLE request DROP COLUMN {name}").close()
    journal.close()
    journal = _journal.SqliteJournal(path)
    journal.write([_changes.Added(_changes.Entry(request_id="r", digest="d", spec=b""))])
    journal.write([_changes.Paused("r", True)])
    entry = journal.read("r")
    assert entry is not None
    assert (entry.is_paused, entry.deaths) == (True, "[]")
    journal.close()

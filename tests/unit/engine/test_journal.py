"""What the journal keeps, whatever happens to its process."""

import pathlib
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings, strategies

from kubediffusion import _changes, _journal, _statedir, errors


@pytest.fixture(name="path")
def a_path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture(name="journal", params=["file", "memory", "rollback"])
def a_journal(
    path: pathlib.Path, request: pytest.FixtureRequest
) -> Iterator[_journal.SqliteJournal]:
    found = _journal.SqliteJournal(
        None if request.param == "memory" else path, uses_wal=request.param == "file"
    )
    yield found
    found.close()


def entry(name: str = "r", **fields: object) -> _changes.Entry:
    return _changes.Entry(
        **{"request_id": name, "digest": "d", "spec": b"s", **fields}  # type: ignore[arg-type]
    )


def added(*names: str) -> list[_changes.Change]:
    return [_changes.Added(entry(name)) for name in names]


def test_request_comes_back_as_it_was(journal: _journal.SqliteJournal) -> None:
    given = entry(priority=3, deadline=1.5, min_exactness=2, submitted=9.0)
    journal.write([_changes.Added(given)])
    assert journal.read("r") == given
    assert list(journal.unfinished()) == [given]
    assert journal.read("nobody") is None


def test_changes_are_seen_in_order(journal: _journal.SqliteJournal) -> None:
    journal.write(added("r"))
    journal.write([_changes.Placed("r", "a", "a1", 1)])
    journal.write([_changes.Accepted("r", "a", "a1")])
    found = journal.read("r")
    assert found is not None
    assert (found.worker, found.incarnation, found.is_accepted) == ("a", "a1", True)
    journal.write([_changes.Waiting("r", 2, 1), _changes.Cancelling("r")])
    found = journal.read("r")
    assert found is not None
    assert (found.incarnation, found.attempt, found.strikes) == ("", 2, 1)
    assert (found.is_accepted, found.is_cancelling) == (False, True)


def test_outcome_is_final(journal: _journal.SqliteJournal) -> None:
    journal.write(added("r"))
    journal.write([_changes.Ended("r", "succeeded", 5.0, result=b"header", result_size=10)])
    journal.write([_changes.Ended("r", "failed", 6.0)])
    found = journal.read("r")
    assert found is not None
    assert (found.ending, found.ended, found.result) == ("succeeded", 5.0, b"header")
    assert list(journal.unfinished()) == []
    assert [each.request_id for each in journal.finished(10)] == ["r"]


def test_large_request_is_dropped_at_its_end(journal: _journal.SqliteJournal) -> None:
    journal.write([_changes.Added(entry(spec=bytes(100_000)))])
    journal.write([_changes.Ended("r", "failed", 1.0)])
    found = journal.read("r")
    assert found is not None
    assert found.spec is None


def test_batch_is_written_whole_or_not_at_all(journal: _journal.SqliteJournal) -> None:
    journal.write(added("r1"))
    with pytest.raises(errors.JournalError):
        journal.write(added("r2", "r1"))
    assert [each.request_id for each in journal.unfinished()] == ["r1"]


def test_claimed_request_has_its_content(journal: _journal.SqliteJournal) -> None:
    journal.write([_changes.Added(entry(spec=None, digest=""))])
    journal.write([_changes.Claimed("r", "d", b"s")])
    assert journal.read("r") == entry()


def test_old_outcomes_are_pruned_by_age_count_and_size(
    journal: _journal.SqliteJournal,
) -> None:
    names = [f"r{number}" for number in range(6)]
    journal.write(added(*names, "unfinished"))
    for number, name in enumerate(names):
        journal.write([_changes.Ended(name, "succeeded", float(number), result_size=10)])
    assert journal.prune(ended_before=1.0, max_count=100, max_bytes=1000) == ["r0"]
    assert journal.prune(ended_before=0.0, max_count=4, max_bytes=1000) == ["r1"]
    assert sorted(journal.prune(ended_before=0.0, max_count=100, max_bytes=25)) == ["r2", "r3"]
    assert [each.request_id for each in journal.unfinished()] == ["unfinished"]


def test_epoch_is_kept(path: pathlib.Path) -> None:
    journal = _journal.SqliteJournal(path)
    assert journal.epoch == 0
    journal.raise_epoch(2**40)
    journal.close()
    assert _journal.SqliteJournal(path).epoch == 2**40


def test_closed_journal_says_so(journal: _journal.SqliteJournal) -> None:
    journal.close()
    journal.close()
    with pytest.raises(errors.JournalError, match="closed"):
        journal.read("r")


def test_files_are_private(path: pathlib.Path) -> None:
    journal = _journal.SqliteJournal(path)
    journal.write(added("r"))
    files = list(path.parent.iterdir())
    assert len(files) >= 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    journal.close()


def test_journal_of_a_newer_release_is_refused(path: pathlib.Path) -> None:
    _journal.SqliteJournal(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
    database.close()
    with pytest.raises(errors.JournalError, match="format 99"):
        _journal.SqliteJournal(path)


def test_broken_file_is_refused_with_its_name(path: pathlib.Path) -> None:
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(errors.JournalError, match=str(path)):
        _journal.SqliteJournal(path)


def test_full_disk_is_a_clear_error_and_keeps_what_is_there(path: pathlib.Path) -> None:
    journal = _journal.SqliteJournal(path)
    journal.write(added("r"))
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}").close()
    with pytest.raises(errors.JournalError, match="full"):
        journal.write([_changes.Added(entry("large", spec=bytes(1_000_000)))])
    assert [each.request_id for each in journal.unfinished()] == ["r"]
    journal.close()


_WRITER = """
import os, pathlib, sys
from kubediffusion import _changes, _journal
journal = _journal.SqliteJournal(pathlib.Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    entry = _changes.Entry(request_id=f"r{number}", digest="d", spec=b"s")
    journal.write([_changes.Added(entry)])
    journal.write([_changes.Placed(f"r{number}", "a", "a1", 1)])
    os.write(1, b"x")
os.kill(os.getpid(), 9)
"""


def test_what_was_written_survives_kill_9(path: pathlib.Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _WRITER, str(path), "20"], capture_output=True, check=False
    )
    assert ended.returncode == -9
    found = list(_journal.SqliteJournal(path).unfinished())
    assert len(found) == len(ended.stdout) == 20
    assert all(each.incarnation == "a1" for each in found)


small = strategies.integers(1, 9)
workers = strategies.sampled_from("ab")
lives = strategies.sampled_from(["1", "2"])
changes = strategies.one_of(
    strategies.builds(_changes.Waiting, strategies.just("r"), small, small),
    strategies.builds(_changes.Placed, strategies.just("r"), workers, lives, small),
    strategies.builds(_changes.Accepted, strategies.just("r"), workers, lives),
    strategies.builds(_changes.Cancelling, strategies.just("r")),
    strategies.builds(
        _changes.Ended,
        strategies.just("r"),
        strategies.sampled_from(["succeeded", "failed"]),
        strategies.floats(0, 9),
        error=strategies.none(),
        result=strategies.none() | strategies.just(b"header"),
        result_size=small,
    ),
)


@settings(deadline=None, max_examples=20)
@given(strategies.lists(changes, max_size=8))
def test_reopened_journal_has_every_write_that_returned(
    tmp_path_factory: pytest.TempPathFactory, written: list[_changes.Change]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite3"
    in_memory = _journal.SqliteJournal()
    for change in [*added("r"), *written]:
        in_memory.write([change])
        reopened = _journal.SqliteJournal(path)
        reopened.write([change])
        reopened.close()
        reopened = _journal.SqliteJournal(path)
        assert reopened.read("r") == in_memory.read("r")
        reopened.close()
    in_memory.close()


# ---------------------------------------------------------------- the folder


def test_folder_belongs_to_one_process_at_a_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_statedir, "LOCK_SECONDS", 0.0)
    first = _statedir.StateDir(tmp_path, "e", journal_mode="auto")
    with pytest.raises(errors.JournalError, match="another engine with engine_id 'e'"):
        _statedir.StateDir(tmp_path, "e", journal_mode="auto")
    other = _statedir.StateDir(tmp_path, "f", journal_mode="auto")
    first.close()
    again = _statedir.StateDir(tmp_path, "e", journal_mode="auto")
    other.close()
    again.close()
    again.close()


def test_folder_is_private(tmp_path: pathlib.Path) -> None:
    state = _statedir.StateDir(tmp_path / "new", "e", journal_mode="auto")
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    state.close()


def test_folder_that_cannot_be_made_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.JournalError, match="cannot use the state_dir"):
        _statedir.StateDir(tmp_path / "file", "e", journal_mode="auto")


MOUNTS = """\
22 1 0:20 / / rw - ext4 /dev/root rw
23 22 0:21 / /data rw - nfs4 server:/data rw
24 23 0:22 / /data/local rw shared:1 - xfs /dev/sdb rw
25 22 0:23 / /with\\040space rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home", "ext4"),
        ("/data", "nfs4"),
        ("/data/deep/er", "nfs4"),
        ("/data/local/x", "xfs"),
        ("/database", "ext4"),
        ("/with space/x", "cifs"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(folder: str, kind: str) -> None:
    assert _statedir.file_system(pathlib.Path(folder), MOUNTS) == kind


def test_network_file_system_needs_the_rollback_journal(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_statedir, "file_system", lambda path, mounts: "nfs4")
    with pytest.raises(errors.JournalError, match="journal_mode='rollback'"):
        _statedir.StateDir(tmp_path, "e", journal_mode="auto")
    state = _statedir.StateDir(tmp_path, "e", journal_mode="rollback")
    assert not state.uses_wal
    state.close()

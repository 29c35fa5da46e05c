"""What `prune` deletes from state folders, and what it leaves."""

import contextlib
import os
import pathlib
import time

import pytest

from kubediffusion import _changes, _checkpoints, _journal, _pruning, _results, _statedir, errors

WEEK = 7 * 86_400.0
ALL = _pruning.Retention(seconds=0.0, max_bytes=0)
LENIENT = _pruning.Retention(seconds=WEEK, max_bytes=10**9)


class State:
    """The state of an engine that has ended."""

    def __init__(self, root: pathlib.Path, engine_id: str = "e") -> None:
        self.root = root
        self.engine_id = engine_id
        self.folder = _statedir.folder_of(root, engine_id)
        with self.opened():
            pass

    @contextlib.contextmanager
    def opened(self):
        state = _statedir.StateDir(self.root, self.engine_id, journal_mode="auto")
        with (
            contextlib.closing(state),
            contextlib.closing(_journal.SqliteJournal(state.journal)) as journal,
        ):
            yield state, journal

    def add(self, name: str, *, ended: float | None = None, size: int = 0) -> None:
        """Journal a request, and its result if it has ended."""
        with self.opened() as (state, journal):
            journal.write([_changes.Added(_changes.Entry(request_id=name, digest="d", spec=b"s"))])
            if ended is not None:
                journal.write([_changes.Ended(name, "succeeded", ended, result_size=size)])
                _results.ResultFiles(state.results).store(name, bytes(size))

    def save(self, name: str, size: int = 1000) -> None:
        """Keep a checkpoint of a request."""
        checkpoint = _changes.Checkpoint(name, "0" * 64, 3, size, "f", 1, "file", "w")
        with self.opened() as (state, journal):
            journal.write([checkpoint])
            _checkpoints.CheckpointFiles(state.checkpoints).store(checkpoint, bytes(size))

    @property
    def requests(self) -> set[str]:
        with self.opened() as (_, journal):
            entries = [*journal.unfinished(), *journal.finished(100)]
            return {entry.request_id for entry in entries}

    def files(self, kind: str) -> int:
        folder = self.folder / kind
        return len(list(folder.iterdir())) if folder.is_dir() else 0


@pytest.fixture(name="state")
def a_state(tmp_path: pathlib.Path) -> State:
    return State(tmp_path)


def test_old_outcomes_go_with_their_results(state: State) -> None:
    now = time.time()
    state.add("old", ended=now - 2 * WEEK, size=50_000)
    state.add("new", ended=now, size=60_000)
    pruned = _pruning.prune(state.folder, LENIENT)
    assert (pruned.requests, pruned.files, pruned.problem) == (1, 1, "")
    assert pruned.freed_bytes >= 50_000
    assert pruned.kept_bytes >= 60_000
    assert state.requests == {"new"}
    assert state.files("results") == 1


def test_beyond_the_bytes_the_oldest_go(state: State) -> None:
    now = time.time()
    for age in range(3):
        state.add(f"r{age}", ended=now - age, size=1000)
    _pruning.prune(state.folder, _pruning.Retention(seconds=WEEK, max_bytes=2000))
    assert state.requests == {"r0", "r1"}


def test_what_is_unfinished_stays_with_its_checkpoints(state: State) -> None:
    state.add("film")
    state.save("film")
    pruned = _pruning.prune(state.folder, ALL)
    assert (pruned.unfinished, pruned.files) == (1, 0)
    assert state.requests == {"film"}
    assert state.files("checkpoints") == 1


def test_files_that_the_journal_does_not_know_go(state: State) -> None:
    state.add("film")
    state.save("film")
    with state.opened() as (folder, _):
        _results.ResultFiles(folder.results).store("nobody's", bytes(2000))
        (folder.checkpoints / "half.new").write_bytes(bytes(3000))
    pruned = _pruning.prune(state.folder, LENIENT)
    assert pruned.files == 2
    assert pruned.freed_bytes >= 5000
    assert (state.files("results"), state.files("checkpoints")) == (0, 1)


def test_a_dry_run_tells_the_same_and_deletes_nothing(state: State) -> None:
    state.add("old", ended=1.0, size=50_000)
    state.add("film")
    state.save("film")
    (state.folder / "checkpoints" / "half.new").write_bytes(bytes(3000))
    told = _pruning.prune(state.folder, LENIENT, is_dry=True)
    assert (told.requests, told.files, told.freed_bytes) == (1, 2, 53_000)
    assert state.requests == {"old", "film"}
    assert (state.files("results"), state.files("checkpoints")) == (1, 2)
    done = _pruning.prune(state.folder, LENIENT)
    assert (done.requests, done.files) == (1, 2)


def test_the_folder_of_a_running_engine_is_left_alone(state: State) -> None:
    state.add("old", ended=1.0, size=1000)
    with state.opened():
        pruned = _pruning.prune(state.folder, ALL)
    assert pruned.is_in_use
    assert "uses this state_dir" in pruned.problem
    assert state.requests == {"old"}


def test_an_abandoned_engine_goes_whole(state: State) -> None:
    state.add("film")
    state.save("film")
    with state.opened() as (folder, _):
        pass
    for path in folder.folder.iterdir():
        os.utime(path, (1.0, 1.0))
    retention = _pruning.Retention(seconds=WEEK, max_bytes=10**9, abandoned_seconds=WEEK)
    assert _pruning.prune(state.folder, retention, is_dry=True).is_removed
    assert state.folder.exists()
    pruned = _pruning.prune(state.folder, retention)
    assert pruned.is_removed
    assert pruned.freed_bytes >= 1000
    assert not state.folder.exists()


def test_an_engine_that_was_used_lately_is_not_abandoned(state: State) -> None:
    state.add("film")
    retention = _pruning.Retention(seconds=WEEK, max_bytes=10**9, abandoned_seconds=WEEK)
    assert not _pruning.prune(state.folder, retention).is_removed
    assert state.requests == {"film"}


def test_a_journal_that_is_none_is_a_problem_and_not_touched(state: State) -> None:
    journal = state.folder / "journal.sqlite3"
    journal.write_bytes(b"not a database, whatever it is called" * 100)
    pruned = _pruning.prune(state.folder, ALL)
    assert "journal" in pruned.problem
    assert not pruned.is_in_use
    assert journal.stat().st_size == 3700


def test_all_engines_of_a_state_dir_are_found(tmp_path: pathlib.Path) -> None:
    for name in ("b", "a"):
        State(tmp_path, name)
    assert [path.name for path in _pruning.folders(tmp_path)] == ["engine-a", "engine-b"]


@pytest.mark.parametrize("kind", ["missing", "other"])
def test_a_folder_that_is_no_state_dir_is_refused(kind: str, tmp_path: pathlib.Path) -> None:
    if kind == "other":
        (tmp_path / "photos").mkdir()
    folder = tmp_path if kind == "other" else tmp_path / "missing"
    with pytest.raises(errors.JournalError):
        _pruning.folders(folder)

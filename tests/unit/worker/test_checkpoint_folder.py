import hashlib
import os
import pathlib
import stat

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import identity, sinks

KEY = identity.GenerationKey("e", "a")


def save(folder: sinks.Folder, step: int, key: identity.GenerationKey = KEY) -> pathlib.Path:
    """Write a checkpoint whose bytes tell its step; return its file, aged by its step."""
    data = b"checkpoint %d" % step
    info = worker_pb2.CheckpointInfo(
        step=step, size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    folder.write(key, info, data)
    (path,) = folder.path.glob(f"*-{step:08d}-*")
    os.utime(path, (1e9 + step, 1e9 + step))
    return path


def test_the_newest_whole_checkpoint_is_found(tmp_path: pathlib.Path) -> None:
    folder = sinks.Folder(tmp_path)
    save(folder, 1)
    newest = save(folder, 2)
    assert folder.find(KEY, lambda data: data) == b"checkpoint 2"
    newest.write_bytes(b"checkpoint X")
    assert folder.find(KEY, lambda data: data) == b"checkpoint 1"
    assert folder.find(KEY, lambda data: None) is None
    assert folder.find(identity.GenerationKey("e", "b"), lambda data: data) is None


def test_files_are_for_their_owner_alone_and_nothing_else_is_left(tmp_path: pathlib.Path) -> None:
    folder = sinks.Folder(tmp_path / "new" / "folder")
    path = save(folder, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert list(folder.path.iterdir()) == [path]


def test_two_checkpoints_of_a_generation_stay(tmp_path: pathlib.Path) -> None:
    folder = sinks.Folder(tmp_path)
    other = save(folder, 7, identity.GenerationKey("e", "b"))
    kept = [save(folder, step) for step in (1, 2, 3, 4)][2:]
    assert set(tmp_path.iterdir()) == {*kept, other}
    folder.remove(KEY)
    assert list(tmp_path.iterdir()) == [other]


def test_a_write_that_fails_leaves_nothing(tmp_path: pathlib.Path) -> None:
    folder = sinks.Folder(tmp_path)
    path = save(folder, 1)
    path.unlink()
    path.mkdir()  # No file can be renamed to a folder.
    with pytest.raises(OSError, match="directory"):
        folder.write(
            KEY,
            worker_pb2.CheckpointInfo(
                step=1, size=12, sha256=hashlib.sha256(b"checkpoint 1").hexdigest()
            ),
            b"checkpoint 1",
        )
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_not_followed(tmp_path: pathlib.Path) -> None:
    folder = sinks.Folder(tmp_path / "folder")
    path = save(folder, 1)
    target = tmp_path / "target"
    path.rename(target)
    path.symlink_to(target)
    assert folder.find(KEY, lambda data: data) is None


def test_what_nobody_came_back_for_is_removed_when_old(tmp_path: pathlib.Path) -> None:
    folder = sinks.Folder(tmp_path)
    old = save(folder, 1)
    stale = tmp_path / ".x.checkpoint.1.part"
    stale.touch()
    foreign = tmp_path / "notes.txt"
    foreign.touch()
    for path in (stale, foreign):
        os.utime(path, (1e9, 1e9))
    folder.tidy(1e9 + 100.0)
    assert set(tmp_path.iterdir()) == {old, stale, foreign}
    folder.tidy(1e9 + sinks.KEEP_SECONDS + 100.0)
    assert set(tmp_path.iterdir()) == {foreign}

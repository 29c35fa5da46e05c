"""Checkpoints on their way to a folder, and what callers wait for."""

import asyncio
import hashlib
import pathlib
import threading

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import identity, imports, metrics, runs, saving, sinks

KEY = identity.GenerationKey("e", "a")
OTHER = identity.GenerationKey("e", "b")


def a_checkpoint(step: int) -> saving.Saved:
    data = b"checkpoint %d" % step
    digest = hashlib.sha256(data).hexdigest()
    info = worker_pb2.CheckpointInfo(step=step, size=len(data), sha256=digest)
    facts = runs.CheckpointFacts(step=step, fingerprint="f", spec_digest="d", seed=1, format=1)
    return saving.Saved(info, facts, data)


class SlowFolder(sinks.Folder):
    """Is a disk that takes its time."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path)
        self.is_writing = threading.Event()
        self.may_write = threading.Event()

    def write(
        self, key: identity.GenerationKey, info: worker_pb2.CheckpointInfo, data: bytes
    ) -> None:
        self.is_writing.set()
        assert self.may_write.wait(60)
        super().write(key, info, data)


class FullFolder(sinks.Folder):
    """Is a disk that is full."""

    def write(
        self, key: identity.GenerationKey, info: worker_pb2.CheckpointInfo, data: bytes
    ) -> None:
        raise OSError(28, "No space left on device")


def steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("*.checkpoint"))


def test_a_slow_disk_gets_the_newest_of_what_waits(tmp_path: pathlib.Path) -> None:
    async def story() -> None:
        folder = SlowFolder(tmp_path)
        writer = saving.Writer(folder, metrics.Metrics())
        writer.write(KEY, a_checkpoint(1))
        await asyncio.to_thread(folder.is_writing.wait, 60)
        for step in (2, 3, 4):
            writer.write(KEY, a_checkpoint(step))
        folder.may_write.set()
        await writer.close(60.0)

    asyncio.run(story())
    assert steps(tmp_path) == [1, 4]


def test_what_is_released_while_it_waits_leaves_no_file(tmp_path: pathlib.Path) -> None:
    async def story() -> None:
        folder = SlowFolder(tmp_path)
        writer = saving.Writer(folder, metrics.Metrics())
        writer.write(KEY, a_checkpoint(1))
        await asyncio.to_thread(folder.is_writing.wait, 60)
        writer.write(KEY, a_checkpoint(2))
        writer.remove(KEY)
        folder.may_write.set()
        await writer.close(60.0)

    asyncio.run(story())
    assert steps(tmp_path) == []


def test_a_full_disk_is_counted_each_time_and_said_once(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    observed = metrics.Metrics()

    async def story() -> None:
        writer = saving.Writer(FullFolder(tmp_path), observed)
        writer.write(KEY, a_checkpoint(1))
        writer.write(OTHER, a_checkpoint(1))
        await writer.close(60.0)

    asyncio.run(story())
    assert len(caplog.records) == 1
    assert b'checkpoint_failures_total{sink="folder"} 2.0' in observed.text()


def test_a_checkpoint_is_brought_for_one_request_and_for_a_while() -> None:
    kept = imports.Imports(imports.ImportLimits(keep_seconds=60.0))
    saved = a_checkpoint(1)
    kept.keep(KEY, saved, 100.0)
    assert kept.get(KEY, saved.info.sha256, 160.0) is saved
    for key, reference, now in (
        (OTHER, saved.info.sha256, 100.0),
        (KEY, "0" * 64, 100.0),
        (KEY, saved.info.sha256, 161.0),
    ):
        with pytest.raises(errors.CheckpointNotFoundError):
            kept.get(key, reference, now)
    assert kept.bytes == 0


def test_room_that_streams_have_made_counts_until_they_are_over() -> None:
    kept = imports.Imports(imports.ImportLimits(max_size=10, max_bytes=15, max_items=2))
    ticket = kept.reserve(10)
    with pytest.raises(errors.RetentionFullError):
        kept.reserve(6)
    with pytest.raises(errors.MessageTooLargeError):
        kept.reserve(11)
    kept.release(ticket)
    kept.reserve(6)
    kept.reserve(6)
    with pytest.raises(errors.RetentionFullError):
        kept.reserve(1)

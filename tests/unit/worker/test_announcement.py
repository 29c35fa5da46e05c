import asyncio
import logging
import os
import pathlib

import pytest

from kubediffusion_wire import registry
from kubediffusion_worker import announcement


def an_entry(**fields: object) -> registry.Entry:
    given: dict[str, object] = {
        "name": "w",
        "address": "127.0.0.1:1",
        "incarnation": "i",
        "pid": os.getpid(),
        **fields,
    }
    return registry.Entry(**given)  # type: ignore[arg-type] # by name


def test_a_worker_is_known_while_it_lives(tmp_path: pathlib.Path) -> None:
    async def story() -> tuple[int, int]:
        known = announcement.Announcement(an_entry(), tmp_path)
        await known.start()
        during = len(registry.read(tmp_path))
        await known.stop()
        return during, len(registry.read(tmp_path))

    assert asyncio.run(story()) == (1, 0)


def test_each_refresh_tells_the_time(tmp_path: pathlib.Path) -> None:
    async def story() -> list[float]:
        known = announcement.Announcement(an_entry(updated=0.0), tmp_path)
        times = []
        for _ in range(2):
            await known.refresh()
            times.append(registry.read(tmp_path)[0].updated)
        return times

    first, second = asyncio.run(story())
    assert 0.0 < first < second


def test_a_folder_that_cannot_be_used_is_told_once(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    async def story() -> None:
        known = announcement.Announcement(an_entry(), tmp_path / "file")
        for _ in range(3):
            await known.refresh()

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
    assert [record.message for record in caplog.records] == ["Registry cannot be written to"]


def test_the_file_of_a_successor_is_left_alone(tmp_path: pathlib.Path) -> None:
    async def story() -> list[str]:
        known = announcement.Announcement(an_entry(heartbeat=3.0), tmp_path)
        await known.start()
        registry.write(an_entry(incarnation="successor"), tmp_path)
        await known.stop()
        return [entry.incarnation for entry in registry.read(tmp_path)]

    assert asyncio.run(story()) == ["successor"]

"""A worker process that is drained, told to end, or killed while it computes."""

import asyncio
import contextlib
import json
import pathlib
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from callers import PATIENCE, Client, names
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from served import Process, a_process, connected, short_folder

STEPS = 400
STEP_SECONDS = 0.05
"""Long enough for a drain to find a generation that will not be done in time."""


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    with short_folder() as path:
        yield pathlib.Path(path)


async def _running(client: Client, step: int = 4, **wanted: object) -> None:
    await client.serving()
    await client.submit("a", **{"steps": STEPS, "step_seconds": STEP_SECONDS, **wanted})
    await client.until("progress", step=step)


async def _leave(worker: Process, client: Client) -> tuple[int, list[worker_pb2.GenerationEvent]]:
    """Follow a generation to its end on a worker that is told to end; return the last step."""
    followed = asyncio.create_task(client.events("a"))
    await client.worker()
    worker.signal()
    events = await followed
    steps = [event.progress.step for event in events if event.HasField("progress")]
    return max(steps), events


async def _go_on(info: worker_pb2.CheckpointInfo, data: bytes) -> worker_pb2.ResumedEvent:
    """Let another worker go on from a checkpoint; return what it tells of that."""
    async with _another() as successor:
        reference = await successor.import_checkpoint(info, data)
        wanted = {"steps": STEPS, "step_seconds": STEP_SECONDS, "reference": reference}
        await successor.submit("a", attempt=2, **wanted)
        resumed = (await successor.until("resumed")).resumed
        first = await successor.until("progress")
        assert first.progress.step > info.step
        await successor.cancel()
        return resumed


@contextlib.asynccontextmanager
async def _another() -> AsyncIterator[Client]:
    with a_process() as worker:
        async with connected(worker.address) as client:
            await client.serving()
            yield client


def test_a_budget_that_is_too_short_loses_no_step() -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await _running(client)
            last, events = await _leave(worker, client)
            end = events[-1].handed_over.checkpoint
            assert end.step == last < STEPS
            info, data = await client.fetch_checkpoint()
            assert info == end
            await client.acknowledge()
            assert await worker.ended() == 0
            resumed = await _go_on(info, data)
            assert resumed.from_step == last
            assert resumed.exactness == worker_pb2.EXACTNESS_EXACT

    with a_process("--grace", "15") as worker:
        asyncio.run(story(worker))


def test_a_budget_that_is_long_enough_sees_the_result() -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await _running(client, steps=30)
            _, events = await _leave(worker, client)
            kinds = names(events)
            assert kinds[-1] == "succeeded"
            assert "checkpointed" in kinds  # First of all, in case there is less time.
            await client.fetch()
            await client.acknowledge()
            assert await worker.ended() == 0

    with a_process("--grace", "60", "--checkpoint-seconds", "0") as worker:
        asyncio.run(story(worker))


def test_a_second_signal_saves_and_hands_over_what_would_have_been_finished() -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await _running(client)
            followed = asyncio.create_task(client.events("a"))
            worker.signal()
            await client.until_state("DRAINING")
            worker.signal(signal.SIGINT)
            events = await followed
            steps = [event.progress.step for event in events if event.HasField("progress")]
            assert events[-1].handed_over.checkpoint.step == max(steps) < STEPS
            await client.fetch_checkpoint()
            await client.acknowledge()
            assert await worker.ended() == 0

    with a_process("--grace", "3600") as worker:
        asyncio.run(story(worker))


def test_a_third_signal_is_the_end(folder: pathlib.Path) -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a", wait_for=str(folder / "never"))
            await client.until("started")
            worker.signal()
            await client.until_state("DRAINING")
            worker.signal()
            await client.worker()
            worker.signal()
            assert await worker.ended() == 0

    with a_process("--grace", "3600") as worker:
        asyncio.run(story(worker))


def test_a_drained_process_stays_until_it_is_told_to_end() -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await _running(client)
            assert await client.drain(60.0, "CHECKPOINT") == "DRAINING"
            assert (await client.end()).HasField("handed_over")
            await client.fetch_checkpoint()
            await client.acknowledge()
            await client.until_state("DRAINED")
            with pytest.raises(errors.WorkerDrainingError):
                await client.submit("b")
            assert worker.process.poll() is None
            assert await client.undrain() == "SERVING"
            await client.submit("b")
            await client.result("b")
            await client.acknowledge("b")
            await client.drain()
            await client.until_state("DRAINED")
            worker.signal()
            assert await worker.ended() == 0

    with a_process() as worker:
        asyncio.run(story(worker))


def test_what_a_killed_worker_wrote_is_gone_on_with(folder: pathlib.Path) -> None:
    saved = folder / "checkpoints"

    async def begin(worker: Process) -> None:
        async with connected(worker.address) as client:
            await _running(client, step_seconds=0.01)
            await client.until("checkpointed")
            async with asyncio.timeout(PATIENCE):
                while not list(saved.glob("*.checkpoint")):
                    await client.worker()
            worker.signal(signal.SIGKILL)

    async def go_on(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a", attempt=2, steps=STEPS, step_seconds=0.01)
            resumed = (await client.until("resumed")).resumed
            assert resumed.from_step > 0
            assert resumed.exactness == worker_pb2.EXACTNESS_EXACT
            await client.result()
            await client.acknowledge()
            async with asyncio.timeout(PATIENCE):
                while list(saved.glob("*.checkpoint")):
                    await client.worker()

    flags = ("--checkpoint-dir", str(saved), "--checkpoint-seconds", "0.05")
    with a_process(*flags) as worker:
        asyncio.run(begin(worker))
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in saved.glob("*.checkpoint"))
    assert 0 < len(list(saved.glob("*.checkpoint"))) <= 3  # A third one may just have come.
    with a_process(*flags) as worker:
        asyncio.run(go_on(worker))


def test_sigterm_leaves_its_last_step_in_the_folder(folder: pathlib.Path) -> None:
    async def story(worker: Process) -> int:
        async with connected(worker.address) as client:
            await _running(client)
            last, events = await _leave(worker, client)
            assert events[-1].handed_over.checkpoint.step == last
            assert await worker.ended() == 0
            return last

    flags = ("--checkpoint-dir", str(folder / "saved"), "--checkpoint-seconds", "0")
    with a_process("--grace", "6", *flags) as worker:
        last = asyncio.run(story(worker))
    steps = {int(path.name.split("-")[1]) for path in (folder / "saved").glob("*.checkpoint")}
    assert max(steps) == last


def test_a_folder_that_cannot_be_written_to_is_said_once_and_stops_nothing(
    folder: pathlib.Path,
) -> None:
    (folder / "file").touch()

    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a", steps=60, step_seconds=0.01)
            kinds = names(await client.events("a"))
            assert kinds.count("checkpointed") > 2
            assert kinds[-1] == "succeeded"
            await client.acknowledge()
            worker.signal()
            assert await worker.ended() == 0

    flags = ("--checkpoint-dir", str(folder / "file" / "saved"), "--checkpoint-seconds", "0.05")
    with a_process(*flags) as worker:
        asyncio.run(story(worker))
        warnings = [line for line in worker.log() if "folder" in line["message"]]
    assert len(warnings) == 1


def test_a_failed_device_leaves_a_record_without_what_was_asked_for(
    folder: pathlib.Path,
) -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a", prompt="a very secret prompt", raises="sticky", at=2)
            assert await worker.ended() == 4

    flags = ("--name", "w0", "--checkpoint-dir", str(folder))
    with a_process(*flags) as worker:
        asyncio.run(story(worker))
        (line,) = [line for line in worker.log() if line["message"] == "Worker crashed"]
    path = folder / "w0.crash"
    assert path.stat().st_mode & 0o777 == 0o600
    found = json.loads(path.read_text())
    assert found == line["crash"]
    assert (found["name"], found["error"]) == ("w0", "StickyDeviceError")
    assert found["incarnation"] == worker.listening["incarnation"]
    assert "secret" not in path.read_text()

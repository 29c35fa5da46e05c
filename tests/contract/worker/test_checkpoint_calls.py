"""What callers see of checkpoints, pauses and drains, over each transport alike."""

import asyncio
import contextlib
import dataclasses
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Coroutine

import PIL.Image
import pytest

from callers import PATIENCE, Client, names
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import checkpoints, config, imports, lifecycle, testing
from served import TRANSPORTS, Served, serving

Story = Callable[[Served, Client], Coroutine[None, None, None]]

NEVER_BY_TIME = config.WorkerConfig(model=testing.FAKE_MODEL, checkpoint_seconds=None)
STEPS = 10


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def tell(transport: str, story: Story, settings: config.WorkerConfig = NEVER_BY_TIME) -> None:
    async def told() -> None:
        async with serving(transport, settings) as worker:
            await story(worker, worker.client())

    asyncio.run(told())


@contextlib.asynccontextmanager
async def another(**changed: str) -> AsyncIterator[tuple[Served, Client]]:
    """Serve on another worker, for what is handed over."""
    pipeline = testing.FakePipeline(**changed)  # type: ignore[arg-type] # all are texts
    async with serving("tcp", NEVER_BY_TIME, pipeline) as worker:
        yield worker, worker.client()


async def running_at(worker: Served, client: Client, step: int, request_id: str = "a") -> None:
    """Submit a generation that takes as many steps and then waits in the next one."""
    await client.submit(request_id, steps=STEPS, is_gated=True)
    worker.pipeline.gate.allow(step)
    await client.until("progress", request_id, step=step)


async def saved_at(worker: Served, client: Client, step: int) -> worker_pb2.CheckpointInfo:
    """Submit a generation, and save it after so many steps."""
    await running_at(worker, client, step - 1)
    wish = asyncio.create_task(client.take_checkpoint())
    await settled(client)
    worker.pipeline.gate.allow()
    return await wish


async def settled(client: Client) -> None:
    """Let calls that were made before have been answered or be waiting."""
    for _ in range(3):
        await asyncio.sleep(0)
        await client.worker()


def test_a_checkpoint_is_taken_at_the_next_boundary_and_fetched(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        info = await saved_at(worker, client, 4)
        assert info.step == 4
        event = await client.until("checkpointed")
        assert event.checkpointed.sha256 == info.sha256
        header, data = await client.fetch_checkpoint()
        assert header == info
        assert hashlib.sha256(data).hexdigest() == info.sha256
        assert (await client.fetch_checkpoint(step=4, offset=5))[1] == data[5:]
        with pytest.raises(errors.CheckpointNotFoundError):
            await client.fetch_checkpoint(step=3)
        with pytest.raises(errors.InvalidRequestError):
            await client.fetch_checkpoint(offset=len(data) + 1)

    tell(transport, story)


def test_a_generation_goes_on_elsewhere_from_its_checkpoint(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await saved_at(worker, client, 4)
        info, data = await client.fetch_checkpoint()
        async with another() as (other, successor):
            reference = await successor.import_checkpoint(info, data, piece=17)
            await successor.submit("a", attempt=2, steps=STEPS, is_gated=True, reference=reference)
            other.pipeline.gate.allow()
            await successor.until("progress", step=5)
            other.pipeline.gate.allow(STEPS)
            result = await successor.result()
            events = await successor.events("a")
            resumed = next(event.resumed for event in events if event.HasField("resumed"))
            assert (resumed.from_step, resumed.exactness) == (4, worker_pb2.EXACTNESS_EXACT)
            steps = [event.progress.step for event in events if event.HasField("progress")]
            assert min(steps) == 5
            header, _ = await successor.fetch()
            assert header.resumed_from == 4
        worker.pipeline.gate.allow(STEPS)
        assert await client.result() == result

    tell(transport, story)


def test_a_lost_answer_to_a_submit_with_a_checkpoint_is_asked_for_again(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await saved_at(worker, client, 4)
        info, data = await client.fetch_checkpoint()
        async with another() as (_, successor):
            reference = await successor.import_checkpoint(info, data)
            wanted = {"steps": STEPS, "is_gated": True, "reference": reference}
            assert (await successor.submit("a", attempt=2, **wanted)).is_created
            assert not (await successor.submit("a", attempt=2, **wanted)).is_created

    tell(transport, story)


def test_the_newest_two_checkpoints_are_kept_while_a_generation_lives(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await saved_at(worker, client, 2)
        for _ in range(2):
            wish = asyncio.create_task(client.take_checkpoint())
            await settled(client)
            worker.pipeline.gate.allow()
            await wish
        assert (await client.fetch_checkpoint())[0].step == 4
        assert (await client.fetch_checkpoint(step=3))[0].step == 3
        with pytest.raises(errors.CheckpointNotFoundError):
            await client.fetch_checkpoint(step=2)
        worker.pipeline.gate.allow(STEPS)
        await client.result()
        with pytest.raises(errors.CheckpointNotFoundError):
            await client.fetch_checkpoint()
        assert worker.runtime.machine.saved.bytes == 0

    tell(transport, story)


def test_checkpoints_come_by_themselves_where_that_is_wanted(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", steps=200, step_seconds=0.01)
        events = [await client.until("checkpointed")]
        worker.pipeline.gate.allow(STEPS)
        assert events[0].checkpointed.size > 0
        await client.cancel()

    often = dataclasses.replace(NEVER_BY_TIME, checkpoint_seconds=0.01)
    tell(transport, story, often)


def test_a_state_that_cannot_be_saved_is_said_so_and_the_run_goes_on(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", steps=STEPS, is_gated=True, cannot_save=True)
        await client.until("started")
        wish = asyncio.create_task(client.take_checkpoint())
        await settled(client)
        worker.pipeline.gate.allow(STEPS)
        with pytest.raises(errors.NotResumableError, match="a fake state"):
            await wish
        await client.result()

    tell(transport, story)


def test_there_is_no_checkpoint_of_what_has_not_begun_or_has_ended(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a")
        await client.result("a")
        with pytest.raises(errors.NotResumableError):
            await client.take_checkpoint("a")
        with pytest.raises(errors.GenerationNotFoundError):
            await client.take_checkpoint("unknown")
        with pytest.raises(errors.GenerationNotFoundError):
            await client.fetch_checkpoint("unknown")

    tell(transport, story)


def test_who_waits_for_a_checkpoint_learns_of_the_end(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await running_at(worker, client, 1)
        wish = asyncio.create_task(client.take_checkpoint())
        await settled(client)
        await client.cancel()
        with pytest.raises(errors.NotResumableError):
            await wish

    tell(transport, story)


@pytest.mark.parametrize("what", ["spec", "seed", "exactness", "reference", "engine"])
def test_a_checkpoint_of_something_else_is_refused(what: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await saved_at(worker, client, 4)
        info, data = await client.fetch_checkpoint()
        changed = {"fingerprint": "e" * 64} if what == "exactness" else {}
        async with another(**changed) as (other, successor):
            if what == "seed":  # It follows from the ids.
                reference = await successor.import_checkpoint(info, data, "b")
                with pytest.raises(errors.InvalidCheckpointError, match="another seed"):
                    await successor.submit("b", steps=STEPS, is_gated=True, reference=reference)
                return
            reference = await successor.import_checkpoint(info, data)
            wanted = {"steps": STEPS, "is_gated": True, "reference": reference}
            if what == "spec":
                with pytest.raises(errors.InvalidCheckpointError, match="another request"):
                    await successor.submit("a", **{**wanted, "steps": STEPS + 1})
            elif what == "exactness":
                with pytest.raises(errors.InvalidCheckpointError, match="min_exactness"):
                    await successor.submit("a", min_exactness="EXACT", **wanted)
                await successor.submit("a", min_exactness="CLOSE", **wanted)
            elif what == "reference":
                with pytest.raises(errors.CheckpointNotFoundError):
                    await successor.submit("a", **{**wanted, "reference": "0" * 64})
            else:
                with pytest.raises(errors.CheckpointNotFoundError):
                    await other.client("f").submit("a", **wanted)

    tell("tcp", story)


INFO = worker_pb2.CheckpointInfo(
    step=1, size=3, sha256=hashlib.sha256(b"abc").hexdigest(), format=1
)


@pytest.mark.parametrize(
    ("info", "data", "error"),
    [
        ({}, b"abcd", errors.InvalidCheckpointError),
        ({}, b"ab", errors.InvalidCheckpointError),
        ({}, b"abd", errors.InvalidCheckpointError),
        ({}, b"abc", errors.InvalidCheckpointError),  # Whole, but no checkpoint.
        ({"size": -1}, b"", errors.InvalidRequestError),
        ({"size": 0}, b"", errors.InvalidRequestError),
        ({"size": 2**62}, b"abc", errors.MessageTooLargeError),
        ({"sha256": "x"}, b"abc", errors.InvalidRequestError),
    ],
)
def test_bytes_that_are_no_checkpoint_are_refused(
    transport: str, info: dict[str, object], data: bytes, error: type[Exception]
) -> None:
    async def story(worker: Served, client: Client) -> None:
        header = worker_pb2.CheckpointInfo()
        header.CopyFrom(INFO)
        for name, value in info.items():
            setattr(header, name, value)
        with pytest.raises(error):
            await client.import_checkpoint(header, data)
        await client.submit("b")
        await client.result("b")

    tell(transport, story)


def _stream(
    *messages: worker_pb2.ImportCheckpointRequest,
) -> AsyncIterator[worker_pb2.ImportCheckpointRequest]:
    async def stream() -> AsyncIterator[worker_pb2.ImportCheckpointRequest]:
        for message in messages:
            yield message

    return stream()


def test_messages_out_of_order_are_refused(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        head = worker_pb2.ImportCheckpointRequest(
            caller=client.caller, request_id="a", header=INFO
        )
        both = worker_pb2.ImportCheckpointRequest(
            caller=client.caller, request_id="a", header=INFO, data=b"abc"
        )
        nobody = worker_pb2.ImportCheckpointRequest(request_id="a", header=INFO)
        observer = worker_pb2.ImportCheckpointRequest(
            caller=worker.client(role="OBSERVER").caller, request_id="a", header=INFO
        )
        data = worker_pb2.ImportCheckpointRequest(data=b"abc")
        for messages in ([], [data], [both], [head, head], [nobody, data]):
            with pytest.raises(errors.InvalidRequestError):
                await client.calls.import_checkpoint(_stream(*messages))
        with pytest.raises(errors.MethodNotAllowedError):
            await client.calls.import_checkpoint(_stream(observer, data))

    tell(transport, story)


def test_no_more_checkpoints_are_taken_in_than_there_is_room_for() -> None:
    async def story(worker: Served, client: Client) -> None:
        await saved_at(worker, client, 4)
        info, data = await client.fetch_checkpoint()
        for name in ("a", "b"):
            await client.import_checkpoint(info, data, name)
        with pytest.raises(errors.RetentionFullError):
            await client.import_checkpoint(info, data, "c")

    limits = imports.ImportLimits(max_items=2)
    tell("tcp", story, dataclasses.replace(NEVER_BY_TIME, import_limits=limits))


def test_a_stream_that_falls_silent_is_given_up() -> None:
    async def story(worker: Served, client: Client) -> None:
        is_over = asyncio.Event()

        async def stream() -> AsyncIterator[worker_pb2.ImportCheckpointRequest]:
            yield worker_pb2.ImportCheckpointRequest(
                caller=client.caller, request_id="a", header=INFO
            )
            await is_over.wait()

        with pytest.raises(errors.InvalidRequestError, match="keep coming"):
            await client.calls.import_checkpoint(stream())
        is_over.set()

    limits = imports.ImportLimits(idle_seconds=0.05)
    tell("tcp", story, dataclasses.replace(NEVER_BY_TIME, import_limits=limits))


def test_a_generation_without_room_for_its_checkpoint_goes_on(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        with pytest.raises(errors.NotResumableError, match="no room"):
            await saved_at(worker, client, 4)
        worker.pipeline.gate.allow(STEPS)
        await client.result()

    bounds = lifecycle.LifecycleConfig(checkpoint_limits=checkpoints.CheckpointLimits(max_bytes=5))
    tell(transport, story, dataclasses.replace(NEVER_BY_TIME, bounds=bounds))


def test_a_generation_stands_still_and_goes_on(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await running_at(worker, client, 3)
        await client.pause()
        worker.pipeline.gate.allow()
        event = await client.until("parked")
        assert event.parked.step == 4
        (found,) = await client.listing()
        assert found.state == worker_pb2.GENERATION_STATE_PARKED
        assert (await client.take_checkpoint()).step == 4
        worker.pipeline.gate.allow(STEPS)
        await client.submit("b", steps=2)
        await client.result("b")
        assert await client.pause() == "PARKED"
        assert await client.unpause() == "RUNNING"
        await client.result()
        kinds = names(await client.events("a"))
        assert kinds.index("parked") < kinds.index("unpaused") < kinds.index("succeeded")

    tell(transport, story)


def test_a_generation_that_stands_still_can_be_cancelled(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await running_at(worker, client, 3)
        await client.pause()
        worker.pipeline.gate.allow()
        await client.until("parked")
        await client.cancel()
        assert (await client.end()).cancelled.step == 4

    tell(transport, story)


def test_a_generation_in_line_can_be_kept_from_starting(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("running", steps=STEPS, is_gated=True)
        await client.until("started", "running")
        await client.submit("a", steps=1)
        assert await client.pause() == "PARKED"
        worker.pipeline.gate.allow(STEPS)
        await client.result("running")
        assert names(await _so_far(client, "a")) == ["queued", "parked"]
        await client.unpause()
        await client.result()

    bounds = lifecycle.LifecycleConfig(slots=1)
    tell(transport, story, dataclasses.replace(NEVER_BY_TIME, bounds=bounds))


async def _so_far(client: Client, request_id: str) -> list[worker_pb2.GenerationEvent]:
    found: list[worker_pb2.GenerationEvent] = []
    async with asyncio.timeout(PATIENCE):
        async for response in client.watch(request_id):
            found += response.events
            if response.is_live:
                break
    return found


def test_a_drain_hands_over_at_exactly_the_last_step(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await running_at(worker, client, 3)
        assert await client.drain(60.0, "CHECKPOINT") == "DRAINING"
        worker.pipeline.gate.allow()
        end = await client.end()
        steps = [e.progress.step for e in await client.events("a") if e.HasField("progress")]
        assert end.handed_over.checkpoint.step == max(steps) == 4
        info, data = await client.fetch_checkpoint()
        assert info == end.handed_over.checkpoint
        async with another() as (other, successor):
            reference = await successor.import_checkpoint(info, data)
            await successor.submit("a", attempt=2, steps=STEPS, is_gated=True, reference=reference)
            other.pipeline.gate.allow(STEPS - 4)
            await successor.result()
        await client.acknowledge()
        await client.until_state("DRAINED")

    tell(transport, story)


def test_a_drained_worker_stays_and_serves_again(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.drain()
        await client.until_state("DRAINED")
        with pytest.raises(errors.WorkerDrainingError):
            await client.submit()
        assert await client.undrain() == "SERVING"
        await client.submit()
        await client.result()

    tell(transport, story)


def test_what_was_to_be_handed_over_goes_on_after_an_undrain(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await running_at(worker, client, 3)
        await client.drain(60.0, "CHECKPOINT")
        await client.undrain()
        worker.pipeline.gate.allow(STEPS)
        await client.result()

    tell(transport, story)


def test_an_observer_neither_pauses_nor_drains(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit()
        observer = worker.client(role="OBSERVER")
        for call in (observer.pause, observer.unpause, observer.take_checkpoint):
            with pytest.raises(errors.MethodNotAllowedError):
                await call("a")
        for change in (observer.drain, observer.undrain):
            with pytest.raises(errors.MethodNotAllowedError):
                await change()
        with pytest.raises(errors.InvalidRequestError, match="budget"):
            await client.drain(-1.0)
        operator = worker.client("somebody", epoch=0, role="OPERATOR")
        await operator.drain(0.0)

    tell(transport, story)


def test_previews_are_shown_to_those_who_look(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        seen: list[worker_pb2.PreviewEvent] = []
        is_live = False
        await client.submit("a", steps=STEPS, is_gated=True)
        async with asyncio.timeout(PATIENCE):
            async for response in client.watch("a", until_terminal=True, previews=True):
                if response.is_live and not is_live:
                    is_live = True
                    worker.pipeline.gate.allow()
                seen += [e.preview for e in response.events if e.HasField("preview")]
                if seen:
                    worker.pipeline.gate.allow(STEPS)
        with PIL.Image.open(io.BytesIO(seen[0].image)) as picture:
            assert (picture.format, picture.size) == ("JPEG", (seen[0].width, seen[0].height))

    tell(transport, story)


def test_previews_are_made_for_nobody_else(transport: str) -> None:
    async def story(worker: Served, client: Client) -> None:
        await client.submit("a", steps=STEPS)
        assert "preview" not in names(await client.events("a"))

    tell(transport, story)

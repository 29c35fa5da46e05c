"""What a worker does about clients that are broken or mean harm."""

import asyncio
import itertools
import random

import psutil
import pytest

from callers import PATIENCE, names
from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import channels, errors, status
from served import Process, Served, a_process, connected, serving

METHODS = [
    method.name for method in worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].methods
]
CLIENT_STREAMS = {"ImportCheckpoint"}
SERVER_STREAMS = {"WatchGenerations", "ListGenerations", "FetchResult", "FetchCheckpoint"}


async def _send_raw(address: str, data: bytes) -> None:
    """Write bytes to the port, and read until the worker closes the connection."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await writer.drain()
            writer.write_eof()
            while await reader.read(65536):
                pass
    except ConnectionError:
        pass
    finally:
        writer.close()


def test_garbage_on_the_port_is_closed_and_not_logged() -> None:
    noise = random.Random(1)
    attacks = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise.randbytes(500),
        *(noise.randbytes(noise.randint(1, 4000)) for _ in range(30)),
    ]

    async def story(worker: Process) -> None:
        for attack in attacks:
            await _send_raw(worker.address, attack)
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a")
            await client.result("a")
            await client.acknowledge("a")

    with a_process() as worker:
        asyncio.run(story(worker))
        worker.signal()
        assert worker.wait() == 0
        assert worker.process.stderr is not None
        lines = worker.process.stderr.read().splitlines()
    foreign = [line for line in lines if '"logger": "kubediffusion_worker' not in line]
    assert len(foreign) <= 1, foreign


@pytest.mark.parametrize("method", METHODS)
def test_malformed_messages_are_invalid_arguments(method: str) -> None:
    """gRPC's own answer would be UNKNOWN, with the names of our classes in it."""

    async def story() -> errors.KubediffusionError:
        async with serving("tcp") as worker, channels.open_channel(worker.address) as channel:
            path = f"/kubediffusion.v1.WorkerService/{method}"
            junk = b"\xff\xff\xff\xff"
            try:
                with status.map_errors():
                    if method in CLIENT_STREAMS:
                        await channel.stream_unary(path)(iter([junk]))
                    elif method in SERVER_STREAMS:
                        async for _ in channel.unary_stream(path)(junk):
                            pass
                    else:
                        await channel.unary_unary(path)(junk)
            except errors.KubediffusionError as error:
                return error
            raise AssertionError("it was accepted")

    error = asyncio.run(story())
    assert isinstance(error, errors.InvalidRequestError)
    assert "valid protobuf message" in error.message


def test_any_bytes_in_place_of_a_message_leave_the_worker_healthy() -> None:
    noise = random.Random(2)
    whole = worker_pb2.SubmitGenerationRequest(
        caller=worker_pb2.Caller(engine_id="e"),
        request_id="a",
        spec=worker_pb2.GenerationSpec(prompt="p" * 50),
    ).SerializeToString()

    def flipped() -> bytes:
        data = bytearray(whole)
        for _ in range(noise.randint(1, 4)):
            data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
        return bytes(data[: noise.randint(1, len(data))])

    async def story() -> None:
        async with serving("tcp") as worker, channels.open_channel(worker.address) as channel:
            submit = channel.unary_unary("/kubediffusion.v1.WorkerService/SubmitGeneration")
            for _ in range(300):
                try:
                    with status.map_errors():
                        await submit(flipped())
                except errors.InternalError:
                    raise
                except errors.KubediffusionError:
                    pass
            client = worker.client("fresh")
            await client.submit("b")
            await client.result("b")

    asyncio.run(story())


def test_an_oversized_message_is_refused_and_the_connection_goes_on() -> None:
    async def story() -> None:
        async with serving("tcp") as worker:
            client = worker.client()
            with pytest.raises(errors.MessageTooLargeError):
                await client.submit("a", prompt="p" * 9_000_000)
            await client.submit("b")
            await client.result("b")

    asyncio.run(story())


def test_a_prompt_of_a_megabyte_is_refused_without_being_quoted() -> None:
    async def story() -> None:
        async with serving("tcp") as worker:
            with pytest.raises(errors.InvalidRequestError) as caught:
                await worker.client().submit("a", prompt="secret" * 200_000)
            assert caught.value.violations[0].field == "prompt"
            assert "secret" not in str(caught.value)
            assert worker.pipeline.executed == []

    asyncio.run(story())


BAD_IDS = ["", "a/b", "../../etc/passwd", "a b", "ä", "x" * 129, "a\0b", "a\nb", "%2e%2e"]


@pytest.mark.parametrize("bad", BAD_IDS)
def test_ids_that_are_none_are_refused_everywhere(bad: str) -> None:
    async def story() -> None:
        async with serving("tcp") as worker:
            client, impostor = worker.client(), worker.client(engine_id=bad)
            for call in (client.submit, client.cancel, client.acknowledge, client.fetch):
                with pytest.raises(errors.InvalidRequestError):
                    await call(bad)
            for call in (impostor.submit, impostor.cancel, impostor.acknowledge, impostor.events):
                with pytest.raises(errors.InvalidRequestError):
                    await call("a")
            if bad:
                with pytest.raises(errors.InvalidRequestError):
                    await client.events(bad)

    asyncio.run(story())


def test_values_without_meaning_are_refused_with_their_field() -> None:
    async def story() -> None:
        async with serving("tcp") as worker:
            client = worker.client()
            for field, value in (
                ("height", -8),
                ("width", 1_000_000),
                ("num_inference_steps", -1),
                ("guidance_scale", float("nan")),
                ("strength", 2.0),
                ("num_outputs", 0),
            ):
                spec = client.spec()
                setattr(spec, field, value)
                with pytest.raises(errors.InvalidRequestError) as caught:
                    await client.submit("a", spec=spec)
                assert caught.value.violations[0].field == field
            assert worker.pipeline.executed == []

    asyncio.run(story())


def test_ten_thousand_requests_at_once_meet_a_bounded_queue() -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            for number in range(4):  # All that may have begun at once.
                await client.submit(f"running{number}", wait_for="/nowhere")
            await client.until("started", "running0")
            process = psutil.Process(worker.process.pid)
            before = process.memory_info().rss
            answers = {"accepted": 0, "full": 0}
            numbers = itertools.count()

            async def submit_some() -> None:
                while (number := next(numbers)) < 10_000:
                    try:
                        await client.submit(f"r{number}", prompt="p" * 2000)
                        answers["accepted"] += 1
                    except errors.QueueFullError as error:
                        answers["full"] += error.retry_delay is not None

            await asyncio.gather(*(submit_some() for _ in range(64)))
            assert answers == {"accepted": 500, "full": 9500}
            assert process.memory_info().rss - before < 64_000_000
            assert (await client.worker()).load.queued == 500

    with a_process("--max-queued", "500") as worker:
        asyncio.run(story(worker))


def test_a_watcher_that_does_not_read_holds_up_nobody() -> None:
    async def story(worker: Served) -> None:
        client = worker.client()
        async with channels.open_channel(worker.address, bulk=True) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            request = worker_pb2.WatchGenerationsRequest(caller=client.caller)
            request.min_interval.FromMilliseconds(0)
            idle = stub.WatchGenerations(request)
            assert (await idle.read()).incarnation
            for number in range(3):
                await client.submit(f"r{number}", steps=800, step_seconds=0.0001)
                await client.result(f"r{number}")
            seen: list[worker_pb2.GenerationEvent] = []
            while len([event for event in seen if event.HasField("succeeded")]) < 3:
                seen += (await idle.read()).events
            idle.cancel()
        for number in range(3):
            own = [event for event in seen if event.request_id == f"r{number}"]
            position = 0
            for event in own:
                if event.HasField("gap"):
                    assert event.gap.first_available_sequence == event.sequence + 1
                else:
                    assert event.sequence == position + event.coalesced + 1
                position = event.sequence
            assert names(own)[-1] == "succeeded"

    async def told() -> None:
        async with serving("tcp") as worker:
            await story(worker)

    asyncio.run(told())


def test_a_client_that_is_stopped_in_mid_fetch_costs_nothing_but_its_connection() -> None:
    async def story(worker: Served) -> None:
        client = worker.client()
        await client.submit("a", size=50_000_000)
        await client.end("a")
        async with channels.open_channel(worker.address, bulk=True) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            call = stub.FetchResult(worker_pb2.FetchResultRequest(engine_id="e", request_id="a"))
            await call.read()
            await client.submit("b")
            await client.result("b")
            call.cancel()
        assert len(await client.result("a")) == 50_000_000

    async def told() -> None:
        async with serving("tcp") as worker:
            await story(worker)

    asyncio.run(told())

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
import pytest

import wire_server
from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import channels, chunks, errors, status

Result = TypeVar("Result")

REQUEST = worker_pb2.FetchResultRequest(engine_id="", request_id="r1")


def with_worker(
    scene: Callable[[grpc.aio.Channel, wire_server.FakeWorker], Awaitable[Result]],
) -> Result:
    """Runs a scene with a bulk channel to a fake worker."""

    async def run() -> Result:
        worker = wire_server.FakeWorker()
        async with (
            wire_server.serving(worker) as address,
            channels.open_channel(address, bulk=True) as channel,
        ):
            return await scene(channel, worker)

    return asyncio.run(run())


def fetch_from_foreign(*frames: bytes) -> errors.KubediffusionError:
    """Fetches a result from a worker that sends just these bytes."""

    async def run() -> errors.KubediffusionError:
        async def send(_: bytes, __: object) -> AsyncIterator[bytes]:
            for frame in frames:
                yield frame

        server = grpc.aio.server()
        handler = grpc.unary_stream_rpc_method_handler(send)
        generic = grpc.method_handlers_generic_handler(
            "kubediffusion.v1.WorkerService", {"FetchResult": handler}
        )
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with channels.open_channel(f"127.0.0.1:{port}", bulk=True) as channel:
                download = chunks.Download(chunks.FETCH_RESULT, REQUEST)
                with pytest.raises(errors.KubediffusionError) as caught:
                    await download.advance(channel)
                return caught.value
        finally:
            await server.stop(0)

    return asyncio.run(run())


def header(size: int, sha256: str = "") -> bytes:
    result = worker_pb2.Result(size=size, sha256=sha256)
    return worker_pb2.FetchResultResponse(header=result).SerializeToString()


def test_a_result_arrives_whole() -> None:
    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        found, data = await chunks.fetch(channel, chunks.FETCH_RESULT, REQUEST)
        assert data == worker.blob
        assert found.sha256 == worker.digest

    with_worker(scene)


def test_a_checkpoint_arrives_whole_from_a_worker_that_knows_only_protobuf() -> None:
    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        request = worker_pb2.FetchCheckpointRequest(request_id="r1")
        info, data = await chunks.fetch(channel, chunks.FETCH_CHECKPOINT, request)
        assert data == worker.blob
        assert info.format == 7

    with_worker(scene)


def test_a_client_that_knows_only_protobuf_reads_the_frames() -> None:
    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        responses = [response async for response in stub.FetchResult(REQUEST)]
        assert responses[0].header.size == len(worker.blob)
        assert b"".join(response.data for response in responses[1:]) == worker.blob
        assert max(len(response.data) for response in responses) == chunks.CHUNK_SIZE

    with_worker(scene)


def test_an_empty_result_arrives() -> None:
    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> bytearray:
        worker.blob = b""
        worker.digest = hashlib.sha256(b"").hexdigest()
        _, data = await chunks.fetch(channel, chunks.FETCH_RESULT, REQUEST)
        return data

    assert with_worker(scene) == b""


def test_a_broken_stream_goes_on_where_it_broke() -> None:
    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        worker.break_after = 3 * chunks.CHUNK_SIZE
        _, data = await chunks.fetch(channel, chunks.FETCH_RESULT, REQUEST)
        assert data == worker.blob
        assert worker.fetched_from == [0, 3 * chunks.CHUNK_SIZE]

    with_worker(scene)


def test_a_download_goes_on_over_another_channel_to_a_worker_that_came_back() -> None:
    async def run() -> None:
        worker = wire_server.FakeWorker()
        worker.break_after = 2 * chunks.CHUNK_SIZE
        download = chunks.Download(chunks.FETCH_RESULT, REQUEST)
        async with (
            wire_server.serving(worker) as address,
            channels.open_channel(address, bulk=True) as channel,
        ):
            with pytest.raises(errors.WorkerGoneError):
                await download.advance(channel)
        assert download.received == 2 * chunks.CHUNK_SIZE
        async with (
            wire_server.serving(worker) as address,
            channels.open_channel(address, bulk=True) as channel,
        ):
            await download.advance(channel)
        await download.verify()
        assert download.data == worker.blob

    asyncio.run(run())


def test_a_worker_that_stays_away_is_given_up() -> None:
    async def run() -> errors.KubediffusionError:
        async with channels.open_channel("127.0.0.1:1", bulk=True) as channel:
            with pytest.raises(errors.WorkerGoneError) as caught:
                await chunks.fetch(channel, chunks.FETCH_RESULT, REQUEST)
        return caught.value

    assert "refused" in asyncio.run(run()).message


def test_a_refusal_is_not_tried_again() -> None:
    request = worker_pb2.FetchResultRequest(engine_id="ResultNotReadyError")

    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        with pytest.raises(errors.ResultNotReadyError):
            await chunks.fetch(channel, chunks.FETCH_RESULT, request)
        assert worker.fetched_from == []

    with_worker(scene)


def test_bytes_with_another_digest_are_refused_and_dropped() -> None:
    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        worker.digest = "0" * 64
        download = chunks.Download(chunks.FETCH_RESULT, REQUEST)
        await download.advance(channel)
        with pytest.raises(errors.CorruptDataError, match="wanted bytes with sha256 '000"):
            await download.verify()
        assert (download.header, download.received) == (None, 0)

    with_worker(scene)


def test_data_that_changed_between_two_streams_is_refused() -> None:
    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        worker.break_after = chunks.CHUNK_SIZE
        download = chunks.Download(chunks.FETCH_RESULT, REQUEST)
        with pytest.raises(errors.WorkerGoneError):
            await download.advance(channel)
        worker.digest = "0" * 64
        with pytest.raises(errors.CorruptDataError, match="changed between two streams"):
            await download.advance(channel)

    with_worker(scene)


def test_more_than_the_caller_takes_is_refused_before_memory_is_taken() -> None:
    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        with pytest.raises(errors.MessageTooLargeError, match="at most 1000 bytes"):
            await chunks.fetch(channel, chunks.FETCH_RESULT, REQUEST, max_size=1000)
        assert worker.fetched_from == [0]

    with_worker(scene)


def test_a_header_beyond_all_memory_is_refused() -> None:
    assert type(fetch_from_foreign(header(2**62))) is errors.MessageTooLargeError


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "must begin with a header; found an empty one"),
        ([b"\xff\xff\xff"], "must hold protobuf messages; found 3 other bytes"),
        ([header(-1)], "a size must be 0 or more; found -1"),
        ([chunks.frame_data(b"abc")], "must begin with a header; found data"),
        ([header(3), chunks.frame_data(b"abcd")], "wanted 3 bytes; found 4 or more"),
        ([header(3), chunks.frame_data(b"ab")], "ended after 2 of 3 bytes"),
        ([header(3), b"\x0a\xff"], "must hold protobuf messages; found 2 other bytes"),
        ([header(3), header(3)], "ended after 0 of 3 bytes"),
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(frames: list[bytes], message: str) -> None:
    error = fetch_from_foreign(*frames)
    assert type(error) is errors.CorruptDataError
    assert message in error.message


def test_a_bulk_stream_that_is_left_ends() -> None:
    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> None:
        stream = status.map_stream(
            channel.unary_stream(chunks.FETCH_RESULT.path)(REQUEST.SerializeToString())
        )
        await anext(stream)
        await stream.aclose()

    with_worker(scene)

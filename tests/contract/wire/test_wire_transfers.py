import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
import pytest

import wire_server
from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import channels, chunks, downloads, errors

Result = TypeVar("Result")

REQUEST = worker_pb2.FetchResultRequest(engine_id="", request_id="r1")


@contextlib.asynccontextmanager
async def reading(address: str) -> AsyncIterator[downloads.Reader]:
    reader = downloads.Reader(address)
    try:
        yield reader
    finally:
        await reader.close()


def with_worker(
    scene: Callable[[downloads.Reader, wire_server.FakeWorker], Awaitable[Result]],
) -> Result:
    """Runs a scene with a reader and a fake worker."""

    async def run() -> Result:
        worker = wire_server.FakeWorker()
        async with wire_server.serving(worker) as address, reading(address) as reader:
            return await scene(reader, worker)

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
            async with reading(f"127.0.0.1:{port}") as reader:
                download = downloads.Download(downloads.FETCH_RESULT, REQUEST)
                with pytest.raises(errors.KubediffusionError) as caught:
                    await reader.advance(download)
                return caught.value
        finally:
            await server.stop(0)

    return asyncio.run(run())


def header(size: int, sha256: str = "") -> bytes:
    result = worker_pb2.Result(size=size, sha256=sha256)
    return worker_pb2.FetchResultResponse(header=result).SerializeToString()


def test_a_result_arrives_whole() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        found, data = await reader.fetch(downloads.FETCH_RESULT, REQUEST)
        assert data == worker.blob
        assert found.sha256 == worker.digest

    with_worker(scene)


def test_a_checkpoint_arrives_whole_from_a_worker_that_knows_only_protobuf() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        request = worker_pb2.FetchCheckpointRequest(request_id="r1")
        info, data = await reader.fetch(downloads.FETCH_CHECKPOINT, request)
        assert data == worker.blob
        assert info.format == 7

    with_worker(scene)


def test_a_client_that_knows_only_protobuf_reads_the_frames() -> None:
    async def run() -> None:
        worker = wire_server.FakeWorker()
        async with (
            wire_server.serving(worker) as address,
            channels.open_channel(address, bulk=True) as channel,
        ):
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            responses = [response async for response in stub.FetchResult(REQUEST)]
        assert responses[0].header.size == len(worker.blob)
        assert b"".join(response.data for response in responses[1:]) == worker.blob
        assert max(len(response.data) for response in responses) == chunks.CHUNK_SIZE

    asyncio.run(run())


def test_an_empty_result_arrives() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> memoryview:
        worker.blob = b""
        worker.digest = hashlib.sha256(b"").hexdigest()
        _, data = await reader.fetch(downloads.FETCH_RESULT, REQUEST)
        return data

    assert with_worker(scene) == b""


def test_a_broken_stream_goes_on_where_it_broke() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        worker.break_after = 3 * chunks.CHUNK_SIZE
        _, data = await reader.fetch(downloads.FETCH_RESULT, REQUEST)
        assert data == worker.blob
        assert worker.fetched_from == [0, 3 * chunks.CHUNK_SIZE]

    with_worker(scene)


def test_a_download_goes_on_over_another_connection_to_a_worker_that_came_back() -> None:
    async def run() -> None:
        worker = wire_server.FakeWorker()
        worker.break_after = 2 * chunks.CHUNK_SIZE
        download = downloads.Download(downloads.FETCH_RESULT, REQUEST)
        async with (
            wire_server.serving(worker) as address,
            reading(address) as reader,
        ):
            with pytest.raises(errors.WorkerGoneError):
                await reader.advance(download)
        assert download.received == 2 * chunks.CHUNK_SIZE
        async with (
            wire_server.serving(worker) as address,
            reading(address) as reader,
        ):
            await reader.advance(download)
        download.verify()
        assert download.data == worker.blob

    asyncio.run(run())


def test_a_worker_that_stays_away_is_given_up() -> None:
    async def run() -> errors.KubediffusionError:
        async with reading("127.0.0.1:1") as reader:
            with pytest.raises(errors.WorkerGoneError) as caught:
                await reader.fetch(downloads.FETCH_RESULT, REQUEST)
        return caught.value

    assert "refused" in asyncio.run(run()).message


def test_a_refusal_is_not_tried_again() -> None:
    request = worker_pb2.FetchResultRequest(engine_id="ResultNotReadyError")

    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        with pytest.raises(errors.ResultNotReadyError):
            await reader.fetch(downloads.FETCH_RESULT, request)
        assert worker.fetched_from == []

    with_worker(scene)


def test_bytes_with_another_digest_are_refused_and_dropped() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        worker.digest = "0" * 64
        download = downloads.Download(downloads.FETCH_RESULT, REQUEST)
        await reader.advance(download)
        with pytest.raises(errors.CorruptDataError, match="wanted bytes with sha256 '000"):
            download.verify()
        assert (download.header, download.received) == (None, 0)

    with_worker(scene)


def test_data_that_changed_between_two_streams_is_refused() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        worker.break_after = chunks.CHUNK_SIZE
        download = downloads.Download(downloads.FETCH_RESULT, REQUEST)
        with pytest.raises(errors.WorkerGoneError):
            await reader.advance(download)
        worker.digest = "0" * 64
        with pytest.raises(errors.CorruptDataError, match="changed between two streams"):
            await reader.advance(download)

    with_worker(scene)


def test_more_than_the_caller_takes_is_refused_before_memory_is_taken() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        with pytest.raises(errors.MessageTooLargeError, match="at most 1000 bytes"):
            await reader.fetch(downloads.FETCH_RESULT, REQUEST, max_size=1000)
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


async def held(
    reader: downloads.Reader, worker: wire_server.FakeWorker
) -> "asyncio.Future[tuple[worker_pb2.Result, memoryview]]":
    """Begins a download that stops in the middle."""
    worker.hold_after = 2 * chunks.CHUNK_SIZE
    fetching = asyncio.ensure_future(reader.fetch(downloads.FETCH_RESULT, REQUEST))
    await worker.holding.wait()
    return fetching


def test_closing_ends_a_download_in_the_middle() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        fetching = await held(reader, worker)
        await reader.close()
        with pytest.raises(errors.WorkerGoneError):
            await fetching
        await worker.left.wait()
        with pytest.raises(errors.WorkerGoneError, match="this end closed"):
            await reader.fetch(downloads.FETCH_RESULT, REQUEST)

    with_worker(scene)


def test_closing_ends_the_threads() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        fetching = await held(reader, worker)
        threads = [each for each in threading.enumerate() if each.name.startswith("kd-download")]
        assert threads
        await reader.close()
        with pytest.raises(errors.WorkerGoneError):
            await fetching
        for thread in threads:
            await asyncio.to_thread(thread.join, 60)
            assert not thread.is_alive()

    with_worker(scene)


def test_closing_ends_downloads_that_wait_for_a_thread() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        worker.hold_after = 0
        fetching = [
            asyncio.ensure_future(reader.fetch(downloads.FETCH_RESULT, REQUEST))
            for _ in range(downloads.THREADS + 2)
        ]
        await worker.holding.wait()
        await reader.close()
        for each in fetching:
            with pytest.raises(errors.WorkerGoneError):
                await each

    with_worker(scene)


def test_downloads_that_are_cancelled_leave_room_for_others() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        for _ in range(downloads.THREADS + 1):
            worker.holding.clear()
            worker.left.clear()
            fetching = await held(reader, worker)
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            await worker.left.wait()
        worker.hold_after = None
        _, data = await reader.fetch(downloads.FETCH_RESULT, REQUEST)
        assert data == worker.blob

    with_worker(scene)


def test_more_downloads_than_threads_arrive() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        found = await asyncio.gather(
            *(reader.fetch(downloads.FETCH_RESULT, REQUEST) for _ in range(3 * downloads.THREADS))
        )
        assert all(data == worker.blob for _, data in found)

    with_worker(scene)


def test_a_large_result_arrives_whole() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        worker.blob = bytes(range(251)) * (downloads.PAGES_SIZE // 251 + 1)
        worker.digest = hashlib.sha256(worker.blob).hexdigest()
        _, data = await reader.fetch(downloads.FETCH_RESULT, REQUEST)
        assert bytes(data) == worker.blob
        assert not data.readonly

    with_worker(scene)


def test_a_fetch_of_bytes_with_another_digest_is_refused() -> None:
    async def scene(reader: downloads.Reader, worker: wire_server.FakeWorker) -> None:
        worker.digest = "0" * 64
        with pytest.raises(errors.CorruptDataError, match="wanted bytes with sha256"):
            await reader.fetch(downloads.FETCH_RESULT, REQUEST)

    with_worker(scene)

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
import hypothesis
import pytest
from hypothesis import strategies

import wire_server
from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import channels, errors, handlers, status, values

ALL_CLASSES = sorted(errors.ERROR_CLASSES.values(), key=lambda error_class: error_class.reason)
SERVICE_PATH = "/kubediffusion.v1.WorkerService"

Result = TypeVar("Result")


def with_worker(
    scene: Callable[[grpc.aio.Channel, wire_server.FakeWorker], Awaitable[Result]],
    *,
    admit: handlers.Admission | None = None,
    options: channels.Options = channels.CLIENT_OPTIONS,
) -> Result:
    """Runs a scene with a channel to a fake worker."""

    async def run() -> Result:
        worker = wire_server.FakeWorker()
        async with (
            wire_server.serving(worker, admit=admit) as address,
            grpc.aio.insecure_channel(address, options=options) as channel,
        ):
            return await scene(channel, worker)

    return asyncio.run(run())


def call_method(method: str, *args: object) -> worker_pb2.CallMethodRequest:
    return worker_pb2.CallMethodRequest(
        method=method, args=[values.encode(argument) for argument in args]
    )


async def raised_by(call: Awaitable[object]) -> errors.KubediffusionError:
    with pytest.raises(errors.KubediffusionError) as caught, status.map_errors():
        await call
    return caught.value


def assert_whole(
    error: errors.KubediffusionError, error_class: type[errors.KubediffusionError]
) -> None:
    assert type(error) is error_class
    assert (error.status_code, error.reason) == (error_class.status_code, error_class.reason)
    assert error.message == "wanted é; found ü"
    assert error.violations == (errors.Violation("height", "must be 1 or more; found -8"),)
    assert error.retry_delay == 1.5
    assert error.metadata == {"worker": "w0"}


def test_every_error_of_a_call_reaches_the_client_whole() -> None:
    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> None:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        for error_class in ALL_CLASSES:
            request = worker_pb2.GetWorkerRequest(engine_id=error_class.__name__)
            assert_whole(await raised_by(stub.GetWorker(request)), error_class)

    with_worker(scene)


def test_every_error_of_a_stream_reaches_the_client_after_what_came_before() -> None:
    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> None:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        for error_class in ALL_CLASSES:
            request = worker_pb2.ListGenerationsRequest(engine_id=error_class.__name__)
            stream = status.map_stream(stub.ListGenerations(request))
            assert (await anext(stream)).incarnation == "i1"
            assert_whole(await raised_by(anext(stream)), error_class)

    with_worker(scene)


def test_an_error_with_thousands_of_violations_reaches_the_client() -> None:
    class Strict(wire_server.FakeWorker):
        async def get_worker(
            self, request: worker_pb2.GetWorkerRequest
        ) -> worker_pb2.GetWorkerResponse:
            violations = [errors.Violation(f"f{i}", "é" * 1_000) for i in range(5_000)]
            raise errors.InvalidRequestError("é" * 100_000, violations=violations)

    async def run() -> errors.KubediffusionError:
        async with (
            wire_server.serving(Strict()) as address,
            channels.open_channel(address) as channel,
        ):
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            return await raised_by(stub.GetWorker(worker_pb2.GetWorkerRequest()))

    error = asyncio.run(run())
    assert type(error) is errors.InvalidRequestError
    assert error.violations[0].field == "f0"


def test_a_value_comes_back_through_a_call() -> None:
    value = {"steps": 50, "seed": 2**70, "scales": (0.5, [None, True]), "x": b"\0"}

    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> object:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        response = await stub.CallMethod(call_method("echo", value))
        return values.decode(response.value)

    assert with_worker(scene) == value


def test_an_unexpected_error_tells_the_client_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        return await raised_by(stub.CallMethod(call_method("crash")))

    error = with_worker(scene)
    assert type(error) is errors.InternalError
    assert error.message == "the worker failed to answer; its log says more"
    (record,) = [r for r in caplog.records if r.name == handlers.logger.name]
    assert record.levelno == logging.ERROR
    facts = record.__dict__
    assert (facts["method"], facts["error"]) == ("CallMethod", "KeyError")
    assert "wire_server.py:" in facts["place"]
    assert "secret" not in caplog.text


MALFORMED = b"\x0a\xff\xff\xff\xff\xff"


@pytest.mark.parametrize("method", ["GetWorker", "SubmitGeneration", "AckGeneration"])
def test_malformed_bytes_are_an_invalid_request(method: str) -> None:
    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        return await raised_by(channel.unary_unary(f"{SERVICE_PATH}/{method}")(MALFORMED))

    error = with_worker(scene)
    assert type(error) is errors.InvalidRequestError
    assert error.message == "request must be a valid protobuf message; found 6 other bytes"


def test_malformed_bytes_to_a_stream_are_an_invalid_request() -> None:
    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        stream = channel.unary_stream(f"{SERVICE_PATH}/FetchResult")(MALFORMED)
        return await raised_by(anext(status.map_stream(stream)))

    assert type(with_worker(scene)) is errors.InvalidRequestError


def test_malformed_bytes_inside_an_upload_are_an_invalid_request() -> None:
    async def frames() -> AsyncIterator[bytes]:
        yield worker_pb2.ImportCheckpointRequest(data=b"good").SerializeToString()
        yield MALFORMED

    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        return await raised_by(channel.stream_unary(f"{SERVICE_PATH}/ImportCheckpoint")(frames()))

    assert type(with_worker(scene)) is errors.InvalidRequestError


def test_random_bytes_never_end_the_server() -> None:
    samples: list[bytes] = []

    @hypothesis.given(strategies.binary(max_size=200))
    @hypothesis.settings(max_examples=200, database=None)
    def collect(data: bytes) -> None:
        samples.append(data)

    collect()

    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> None:
        call = channel.unary_unary(f"{SERVICE_PATH}/CallMethod")
        for data in samples:
            outcome = await asyncio.gather(call(data), return_exceptions=True)
            assert isinstance(outcome[0], (bytes, grpc.aio.AioRpcError))
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        assert (await stub.GetWorker(worker_pb2.GetWorkerRequest())).worker.name == "fake"

    with_worker(scene)


def test_an_unknown_call_is_not_implemented() -> None:
    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        return await raised_by(channel.unary_unary(f"{SERVICE_PATH}/FlyAway")(b""))

    assert type(with_worker(scene)) is errors.NotImplementedByWorkerError


def test_fields_of_the_future_are_ignored() -> None:
    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> bytes:
        data: bytes = await channel.unary_unary(f"{SERVICE_PATH}/GetWorker")(b"\xc2\x3e\x03new")
        return data

    assert worker_pb2.GetWorkerResponse.FromString(with_worker(scene)).worker.name == "fake"


def test_an_upload_is_read_to_its_end() -> None:
    async def requests() -> AsyncIterator[worker_pb2.ImportCheckpointRequest]:
        for _ in range(3):
            yield worker_pb2.ImportCheckpointRequest(data=b"abc")

    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> str:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        response = await stub.ImportCheckpoint(requests())
        return response.checkpoint_reference

    assert with_worker(scene) == hashlib.sha256(b"abcabcabc").hexdigest()


TOO_LARGE = 9_000_000


def test_a_request_over_the_limit_is_not_sent() -> None:
    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        return await raised_by(channel.unary_unary(f"{SERVICE_PATH}/GetWorker")(bytes(TOO_LARGE)))

    assert type(with_worker(scene)) is errors.MessageTooLargeError


def test_a_request_over_the_limit_is_not_received() -> None:
    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        return await raised_by(channel.unary_unary(f"{SERVICE_PATH}/GetWorker")(bytes(TOO_LARGE)))

    unbounded = (("grpc.max_send_message_length", -1),)
    assert type(with_worker(scene, options=unbounded)) is errors.MessageTooLargeError


def test_an_answer_over_the_limit_is_not_sent() -> None:
    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        return await raised_by(stub.CallMethod(call_method("large")))

    error = with_worker(scene)
    assert type(error) is errors.MessageTooLargeError
    assert error.message == "an answer must have at most 8000000 bytes; found 9000010"


def test_an_answer_over_the_limit_is_not_received() -> None:
    async def run() -> errors.KubediffusionError:
        async def send_much(_: bytes, __: object) -> bytes:
            return bytes(TOO_LARGE)

        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(send_much)
        generic = grpc.method_handlers_generic_handler("foreign", {"Call": handler})
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with channels.open_channel(f"127.0.0.1:{port}") as channel:
                return await raised_by(channel.unary_unary("/foreign/Call")(b""))
        finally:
            await server.stop(0)

    assert type(asyncio.run(run())) is errors.MessageTooLargeError


def test_messages_just_below_the_limit_pass_both_ways() -> None:
    data = bytes(channels.MAX_MESSAGE_BYTES - 100)

    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> object:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        response = await stub.CallMethod(call_method("echo", data))
        return values.decode(response.value)

    assert with_worker(scene) == data


def test_a_peer_that_is_not_admitted_gets_no_answer() -> None:
    def refuse(_: handlers.Context) -> None:
        raise errors.MethodNotAllowedError("you may not call")

    async def scene(channel: grpc.aio.Channel, worker: wire_server.FakeWorker) -> None:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        error = await raised_by(stub.GetWorker(worker_pb2.GetWorkerRequest()))
        assert type(error) is errors.MethodNotAllowedError
        stream = status.map_stream(stub.FetchResult(worker_pb2.FetchResultRequest()))
        assert type(await raised_by(anext(stream))) is errors.MethodNotAllowedError
        assert worker.fetched_from == []

    with_worker(scene, admit=refuse)


def test_a_stream_ends_on_the_worker_when_its_client_leaves() -> None:
    async def run() -> str:
        said: asyncio.Queue[str] = asyncio.Queue()
        worker = wire_server.FakeWorker(report=said.put_nowait)
        async with (
            wire_server.serving(worker) as address,
            channels.open_channel(address) as channel,
        ):
            caller = worker_pb2.Caller(engine_id="quiet:600")
            request = worker_pb2.WatchGenerationsRequest(caller=caller)
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            stream = status.map_stream(stub.WatchGenerations(request))
            await anext(stream)
            await said.get()
            await stream.aclose()
            return await asyncio.wait_for(said.get(), 30)

    assert asyncio.run(run()) == "watch of quiet:600 ends"


async def watching(channel: grpc.aio.Channel) -> "asyncio.Task[None]":
    """Begins to follow a silent stream in a task."""
    caller = worker_pb2.Caller(engine_id="quiet:600")
    stub = worker_pb2_grpc.WorkerServiceStub(channel)
    request = worker_pb2.WatchGenerationsRequest(caller=caller)
    stream = status.map_stream(stub.WatchGenerations(request))
    await anext(stream)

    async def follow() -> None:
        async for _ in stream:
            pass

    return asyncio.ensure_future(follow())


def test_closing_a_channel_ends_its_calls_with_an_error_and_no_cancel() -> None:
    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> None:
        task = await watching(channel)
        await asyncio.sleep(0)
        await channel.close()
        error = await raised_by(task)
        assert type(error) is errors.WorkerGoneError
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        with pytest.raises(errors.WorkerGoneError), status.map_errors():
            await stub.GetWorker(worker_pb2.GetWorkerRequest())

    with_worker(scene)


def test_cancelling_a_task_that_reads_a_stream_stays_a_cancel() -> None:
    async def scene(channel: grpc.aio.Channel, _: wire_server.FakeWorker) -> None:
        task = await watching(channel)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_worker(scene)


def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    async def scene(
        channel: grpc.aio.Channel, _: wire_server.FakeWorker
    ) -> errors.KubediffusionError:
        caller = worker_pb2.Caller(engine_id="quiet:600")
        request = worker_pb2.WatchGenerationsRequest(caller=caller)
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        stream = status.map_stream(stub.WatchGenerations(request, timeout=0.2))
        await anext(stream)
        return await raised_by(anext(stream))

    assert type(with_worker(scene)) is errors.RpcTimeoutError


def test_a_servicer_that_lacks_a_call_is_refused_at_the_start() -> None:
    with pytest.raises(TypeError, match="object lacks the methods get_worker, submit_generation"):
        handlers.generic_handler(object(), wire_server.SERVICE)

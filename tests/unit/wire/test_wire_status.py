import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import hypothesis
import pytest
from google.rpc import (  # type: ignore[import-untyped]  # its stubs lack the marker
    error_details_pb2,
    status_pb2,
)
from hypothesis import strategies

from kubediffusion_wire import errors, status

ALL_CLASSES = sorted(errors.ERROR_CLASSES.values(), key=lambda error_class: error_class.reason)
DETAILS_KEY = "grpc-status-details-bin"


def rpc_error(
    code: grpc.StatusCode, text: str = "", metadata: tuple[tuple[str, str | bytes], ...] = ()
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), text)


def over_the_wire(error: errors.KubediffusionError) -> errors.KubediffusionError:
    return status.from_rpc_error(rpc_error(*status.abort_arguments(error)))


@pytest.mark.parametrize("error_class", ALL_CLASSES)
def test_an_error_survives_the_status_whole(error_class: type[errors.KubediffusionError]) -> None:
    error = error_class(
        "wanted this; found that",
        violations=[errors.Violation("a", "b"), errors.Violation("c.d[1]", "é")],
        retry_delay=0.25,
        metadata={"worker": "w0", "attempt": "2"},
    )
    result = over_the_wire(error)
    assert type(result) is error_class
    assert (result.status_code, result.reason) == (error.status_code, error.reason)
    assert (result.message, result.violations) == (error.message, error.violations)
    assert (result.retry_delay, result.metadata) == (0.25, {"worker": "w0", "attempt": "2"})


@pytest.mark.parametrize("error_class", ALL_CLASSES)
def test_an_error_is_sent_with_its_own_code(
    error_class: type[errors.KubediffusionError],
) -> None:
    code, text, _ = status.abort_arguments(error_class("m"))
    assert (code.name, text) == (error_class.status_code, "m")


def test_a_reason_of_the_future_survives_the_status() -> None:
    error = errors.rebuild(
        "new trouble", reason="NEW_REASON", status_code="RESOURCE_EXHAUSTED", metadata={"a": "b"}
    )
    result = over_the_wire(error)
    assert type(result) is errors.WaitError
    assert (result.reason, result.status_code) == ("NEW_REASON", "RESOURCE_EXHAUSTED")


def test_many_violations_are_cut_to_what_grpc_carries() -> None:
    violations = [errors.Violation(f"field_{i}", "é" * 100) for i in range(10_000)]
    error = errors.InvalidRequestError("m" * 100_000, violations=violations)
    _, text, ((_, details),) = status.abort_arguments(error)
    assert len(text) == status.MAX_MESSAGE_CHARACTERS
    assert len(details) < 6_000
    result = over_the_wire(error)
    assert result.violations[0] == violations[0]
    left_out = 10_000 - len(result.violations) + 1
    assert result.violations[-1] == errors.Violation("…", f"{left_out} more are left out")


def test_much_metadata_is_cut_to_what_grpc_carries() -> None:
    error = errors.WaitError("m", metadata={f"key{i}": "v" * 100 for i in range(1_000)})
    _, _, ((_, details),) = status.abort_arguments(error)
    assert len(details) < 6_000


@pytest.mark.parametrize(
    ("code", "text", "error_class"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", errors.WorkerGoneError),
        (grpc.StatusCode.UNAVAILABLE, "Ssl handshake failed", errors.UntrustedPeerError),
        (grpc.StatusCode.CANCELLED, "", errors.WorkerGoneError),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", errors.NotImplementedByWorkerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", errors.RpcTimeoutError),
        (grpc.StatusCode.INTERNAL, "", errors.InternalError),
        (grpc.StatusCode.UNKNOWN, "", errors.InternalError),
        (grpc.StatusCode.DATA_LOSS, "", errors.CorruptDataError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota", errors.WaitError),
        (grpc.StatusCode.UNAUTHENTICATED, "", errors.UntrustedPeerError),
        (grpc.StatusCode.ABORTED, "", errors.GiveUpError),
    ],
)
def test_a_status_without_details_gets_the_class_that_fits(
    code: grpc.StatusCode, text: str, error_class: type[errors.KubediffusionError]
) -> None:
    result = status.from_rpc_error(rpc_error(code, text))
    assert type(result) is error_class
    assert result.message == f"{code.name}: {text}"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_every_code_without_details_gives_an_error(code: grpc.StatusCode) -> None:
    assert isinstance(status.from_rpc_error(rpc_error(code)), errors.KubediffusionError)


def test_details_of_another_service_are_not_ours() -> None:
    foreign = status_pb2.Status(code=14, message="m")
    info = error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="example.com")
    foreign.details.add().Pack(info)
    error = rpc_error(
        grpc.StatusCode.UNAVAILABLE, "m", ((DETAILS_KEY, foreign.SerializeToString()),)
    )
    assert type(status.from_rpc_error(error)) is errors.WorkerGoneError


@hypothesis.given(strategies.binary())
def test_random_details_are_ignored(data: bytes) -> None:
    error = rpc_error(grpc.StatusCode.UNAVAILABLE, "m", ((DETAILS_KEY, data),))
    assert isinstance(status.from_rpc_error(error), errors.KubediffusionError)


@hypothesis.given(strategies.data())
def test_damaged_details_give_an_error(data: strategies.DataObject) -> None:
    error = errors.InvalidRequestError.at("height", "must be 1 or more; found -8")
    code, text, ((key, details),) = status.abort_arguments(error)
    damaged = bytearray(details)
    for _ in range(4):
        place = data.draw(strategies.integers(0, 8 * len(damaged) - 1))
        damaged[place // 8] ^= 1 << place % 8
    result = status.from_rpc_error(rpc_error(code, text, ((key, bytes(damaged)),)))
    assert isinstance(result, errors.KubediffusionError)


def test_what_a_call_raises_is_translated_with_its_cause() -> None:
    cause = rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    with pytest.raises(errors.WorkerGoneError) as caught, status.map_errors():
        raise cause
    assert caught.value.__cause__ is cause


def test_other_errors_pass_untouched() -> None:
    with pytest.raises(KeyError), status.map_errors():
        raise KeyError("k")


def test_a_stream_is_translated_where_it_breaks() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise rpc_error(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async def read() -> None:
        items = status.map_stream(broken())
        assert await anext(items) == 1
        with pytest.raises(errors.WorkerGoneError):
            await anext(items)

    asyncio.run(read())

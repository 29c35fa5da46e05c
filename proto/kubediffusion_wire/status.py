"""Errors as gRPC statuses and back: the only module that knows both.

An error travels as a canonical code with `google.rpc` details (AIP-193): ErrorInfo for reason
and metadata, BadRequest for violations, RetryInfo for the delay.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf import message as protobuf_message
from google.rpc import (  # type: ignore[import-untyped]  # its stubs lack the marker
    error_details_pb2,
    status_pb2,
)

from kubediffusion_wire import errors

DOMAIN = "kubediffusion"
"""Tells our reasons from those of proxies and other services."""

MAX_DETAILS_BYTES = 4_000
"""Bytes of the details, at most: gRPC drops a status whose metadata is over 8 KB."""

MAX_MESSAGE_CHARACTERS = 500
"""Characters of a message, at most; they travel twice, and percent-encoded."""

_DETAILS_KEY = "grpc-status-details-bin"
_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
_TLS_SIGNS = ("ssl", "tls", "handshake", "certificate", "peer name", "hostname verification")
_HANGUP_SIGNS = ("failed to connect", "socket closed")
_SIZE_SIGNS = ("message larger than max", "message exceeds", "metadata size exceeds")

Item = TypeVar("Item")


def abort_arguments(
    error: errors.KubediffusionError,
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Returns what `context.abort` needs to carry an error: code, text, trailing metadata."""
    code = grpc.StatusCode[error.status_code]
    text = _shorten(error.message)
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in _details(error):
        status.details.add().Pack(detail)
    return code, text, ((_DETAILS_KEY, status.SerializeToString()),)


def from_rpc_error(error: grpc.RpcError) -> errors.KubediffusionError:
    """Returns the error that a call ended with, whoever made the status.

    A status without our details comes from gRPC itself, a proxy or another service.
    """
    code: grpc.StatusCode = error.code()
    text: str = error.details() or ""
    status = _parse_details(error)
    if status is not None:
        rebuilt = _from_status(status, code)
        if rebuilt is not None:
            return rebuilt
    return _from_plain(code, text)


@contextlib.contextmanager
def map_errors() -> Iterator[None]:
    """Translates what a gRPC call raises, around an `await stub.Method(request)`.

    Raises:
        errors.KubediffusionError: In place of a grpc.RpcError, which is its cause.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    except grpc.aio.UsageError as error:
        if "closed" not in str(error):
            raise
        raise errors.WorkerGoneError("this end closed the channel before the call") from error
    except asyncio.CancelledError as error:
        # What a call raises when its channel is closed under it; a task that really is being
        # cancelled knows of it.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise errors.WorkerGoneError("this end closed the channel during the call") from error


async def map_stream(call: AsyncIterable[Item]) -> AsyncGenerator[Item, None]:
    """Yields what a streaming call yields and translates what it raises.

    The call is cancelled when the iteration ends early.

    Raises:
        errors.KubediffusionError: In place of a grpc.RpcError, which is its cause.
    """
    try:
        with map_errors():
            async for item in call:
                yield item
    finally:
        if isinstance(call, grpc.aio.Call):
            call.cancel()


def _details(error: errors.KubediffusionError) -> Iterator[protobuf_message.Message]:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    room = MAX_DETAILS_BYTES
    for key, value in error.metadata.items():
        room -= len(key.encode()) + len(value.encode())
        if room > 0:
            info.metadata[key] = value
    yield info
    if error.retry_delay is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_delay * 1e9))
        yield retry
    if error.violations:
        yield _bad_request(error.violations, room)


def _bad_request(
    violations: Sequence[errors.Violation], room: int
) -> error_details_pb2.BadRequest:
    details = error_details_pb2.BadRequest()
    for index, violation in enumerate(violations):
        entry = error_details_pb2.BadRequest.FieldViolation(
            field=violation.field, description=violation.description
        )
        room -= entry.ByteSize()
        if room < 0:
            left = len(violations) - index
            details.field_violations.add(field="…", description=f"{left} more are left out")
            break
        details.field_violations.append(entry)
    return details


def _parse_details(error: grpc.RpcError) -> status_pb2.Status | None:
    metadata: Any = error.trailing_metadata()  # pairs; the stubs speak of another class
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            with contextlib.suppress(protobuf_message.DecodeError):
                return status_pb2.Status.FromString(value)
    return None


def _from_status(
    status: status_pb2.Status, code: grpc.StatusCode
) -> errors.KubediffusionError | None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        for target in (info, bad_request, retry):
            with contextlib.suppress(protobuf_message.DecodeError):
                detail.Unpack(target)
    if info.domain != DOMAIN:
        return None
    return errors.rebuild(
        status.message,
        reason=info.reason,
        status_code=code.name,
        violations=[
            errors.Violation(entry.field, entry.description)
            for entry in bad_request.field_violations
        ],
        retry_delay=_seconds(retry),
        metadata=info.metadata,
    )


def _seconds(retry: error_details_pb2.RetryInfo) -> float | None:
    if not retry.HasField("retry_delay"):
        return None
    seconds: float = retry.retry_delay.ToNanoseconds() / 1e9
    return seconds


def _from_plain(code: grpc.StatusCode, text: str) -> errors.KubediffusionError:
    message = f"{code.name}: {_shorten(text)}"
    lowered = text.lower()
    if all(sign in lowered for sign in _HANGUP_SIGNS):
        # A server with TLS says no more to plaintext or to a certificate that it refuses.
        message += "; if the worker needs TLS, check that it is used and the certificate is right"
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in lowered for sign in _TLS_SIGNS):
        return errors.UntrustedPeerError(message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(s in lowered for s in _SIZE_SIGNS):
        return errors.MessageTooLargeError(message)
    return _PLAIN_CLASSES.get(code, errors.GiveUpError)(message)


_PLAIN_CLASSES: dict[grpc.StatusCode, type[errors.KubediffusionError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.WorkerGoneError,
    # The call was cancelled by the other end or by a channel that was closed.
    grpc.StatusCode.CANCELLED: errors.WorkerGoneError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.RpcTimeoutError,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotImplementedByWorkerError,
    grpc.StatusCode.DATA_LOSS: errors.CorruptDataError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.WaitError,
    grpc.StatusCode.INVALID_ARGUMENT: errors.FixRequestError,
    grpc.StatusCode.OUT_OF_RANGE: errors.FixRequestError,
    grpc.StatusCode.NOT_FOUND: errors.FixRequestError,
    grpc.StatusCode.ALREADY_EXISTS: errors.FixRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FixRequestError,
    grpc.StatusCode.PERMISSION_DENIED: errors.UntrustedPeerError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UntrustedPeerError,
    grpc.StatusCode.INTERNAL: errors.InternalError,
    grpc.StatusCode.UNKNOWN: errors.InternalError,
}


def _shorten(text: str) -> str:
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    return text[: MAX_MESSAGE_CHARACTERS - 1] + "…"

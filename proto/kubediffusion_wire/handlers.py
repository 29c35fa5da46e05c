"""The server's side of every call: decode, run, encode, and answer errors in one place.

gRPC's own deserializers answer malformed bytes with UNKNOWN and the names of our classes, so
they get the identity, and bytes are decoded here.
"""

import contextlib
import logging
import re
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor, message, message_factory

from kubediffusion_wire import channels, errors, status

Context = grpc.aio.ServicerContext[Any, Any]  # bytes both ways; the class wants parameters
Admission = Callable[[Context], None]

logger = logging.getLogger(__name__)


def generic_handler(
    servicer: object,
    service: descriptor.ServiceDescriptor,
    *,
    admit: Admission | None = None,
) -> grpc.GenericRpcHandler:
    """Makes the handler of all calls of a service, for `server.add_generic_rpc_handlers`.

    The servicer has one method for each call, named in snake_case. Calls that answer once are
    coroutines, calls that answer with a stream are async generators; they take the request or,
    where the client streams, an async iterator of requests. They raise
    `errors.KubediffusionError` for what the client shall know; of any other error the client
    learns nothing but that it was internal.

    A stream may yield bytes and memoryviews beside messages: they are sent as they are and
    must be serialized messages, see `chunks.frame_data`.

    Args:
        servicer: Answers the calls.
        service: From the generated code, `worker_pb2.DESCRIPTOR.services_by_name[...]`.
        admit: Raises where the peer must not call, before anything is decoded.

    Raises:
        TypeError: The servicer lacks a method.
    """
    names = {method.name: snake_case(method.name) for method in service.methods}
    missing = [name for name in names.values() if not hasattr(servicer, name)]
    if missing:
        raise TypeError(f"{type(servicer).__name__} lacks the methods {', '.join(missing)}")
    handlers = {
        method.name: _rpc_handler(
            _Method(method, getattr(servicer, names[method.name]), admit), method
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def snake_case(name: str) -> str:
    """Returns `get_worker` for `GetWorker`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _rpc_handler(
    method: "_Method", rpc: descriptor.MethodDescriptor
) -> "grpc.RpcMethodHandler[Any, Any]":
    if rpc.client_streaming and rpc.server_streaming:
        raise TypeError(f"{rpc.name} streams both ways, for which there is no handler")
    if rpc.client_streaming:
        return grpc.stream_unary_rpc_method_handler(method.collect)
    if rpc.server_streaming:
        return grpc.unary_stream_rpc_method_handler(method.stream)
    return grpc.unary_unary_rpc_method_handler(method.answer)


class _Method:
    """One call of the service, with bytes at its outer side."""

    def __init__(
        self,
        rpc: descriptor.MethodDescriptor,
        behaviour: Callable[[Any], Any],  # of the servicer; types differ by call
        admit: Admission | None,
    ) -> None:
        self._name = rpc.name
        self._request_class = message_factory.GetMessageClass(rpc.input_type)
        self._behaviour = behaviour
        self._admit = admit

    async def answer(self, data: bytes, context: Context) -> bytes:
        async with self._errors_answered(context):
            return _encode(await self._behaviour(self._decode(data)))
        raise AssertionError("an answered error ends the call")

    async def stream(self, data: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        async with self._errors_answered(context):
            responses = self._behaviour(self._decode(data))
            # Closed at once when the client leaves, not when garbage is collected.
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield _encode(response)

    async def collect(self, frames: AsyncIterator[bytes], context: Context) -> bytes:
        async with self._errors_answered(context):
            return _encode(await self._behaviour(self._decode_all(frames)))
        raise AssertionError("an answered error ends the call")

    async def _decode_all(self, frames: AsyncIterator[bytes]) -> AsyncIterator[message.Message]:
        async for frame in frames:
            yield self._decode(frame)

    def _decode(self, data: bytes) -> message.Message:
        try:
            return self._request_class.FromString(data)
        except message.DecodeError as error:
            raise errors.InvalidRequestError.at(
                "request", f"must be a valid protobuf message; found {len(data)} other bytes"
            ) from error

    @contextlib.asynccontextmanager
    async def _errors_answered(self, context: Context) -> AsyncIterator[None]:
        try:
            if self._admit is not None:
                self._admit(context)
            yield
        except errors.KubediffusionError as error:
            answer = error
        except Exception as error:  # noqa: BLE001  # the outer edge: no call may end the server
            answer = errors.InternalError("the worker failed to answer; its log says more")
            self._log(error)
        else:
            return
        await context.abort(*status.abort_arguments(answer))

    def _log(self, error: Exception) -> None:
        # Neither the error's text nor its traceback: they may quote a prompt.
        place = traceback.extract_tb(error.__traceback__)[-1]
        logger.error(
            "A call raised an unexpected error",
            extra={
                "method": self._name,
                "error": type(error).__qualname__,
                "place": f"{place.filename}:{place.lineno}",
            },
        )


def _encode(response: message.Message | bytes | memoryview) -> bytes:
    if isinstance(response, message.Message):
        data = response.SerializeToString()
    else:
        data = bytes(response)
    if len(data) > channels.MAX_MESSAGE_BYTES:
        raise errors.MessageTooLargeError(
            f"an answer must have at most {channels.MAX_MESSAGE_BYTES} bytes; found {len(data)}"
        )
    return data

"""The gRPC server of a worker: TCP or a Unix socket, plain or with mutual TLS."""

import grpc.aio

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import addresses, channels, handlers
from kubediffusion_worker import runtime, tracing

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"]

STOP_SECONDS = 1.0
"""Seconds that calls under way get when the server stops; a drain comes before that."""


class Server:
    """Serves one runtime; used on the runtime's event loop."""

    def __init__(
        self,
        served: runtime.WorkerRuntime,
        listen: str,
        *,
        tls: channels.TlsFiles | None = None,
        insecure: bool = False,
    ) -> None:
        self._listen = listen
        self._tls = tls
        self._insecure = insecure
        self._server = grpc.aio.server(options=channels.SERVER_OPTIONS)
        handler = handlers.generic_handler(served, SERVICE, admit=self._admit)
        self._server.add_generic_rpc_handlers([handler])

    async def start(self) -> addresses.Address:
        """Begin to listen; return the address with the real port.

        Raises:
            InvalidRequestError: No such address, or plaintext that is not allowed.
            UntrustedPeerError: A TLS file cannot be read.
            ListenError: The address is in use, or not of this machine.
        """
        address = channels.add_listener(
            self._server, self._listen, tls=self._tls, insecure=self._insecure
        )
        await self._server.start()
        return address

    async def stop(self) -> None:
        """Stop listening, and end the calls that are under way."""
        await self._server.stop(STOP_SECONDS)

    def _admit(self, context: handlers.Context) -> None:
        tracing.current_trace.set(tracing.trace_id(context.invocation_metadata() or ()))
        if self._tls is not None and self._tls.expected_name:
            channels.check_peer(context, self._tls.expected_name)

"""A small servicer behind the real handlers, channels and sockets, for tests of the wire.

Also a program that serves it in a process of its own, to be stopped and killed:
`python tests/support/wire_server.py ADDRESS [OPTION…]` prints the address that it listens on,
and a line for each watch that begins or ends. It goes without the options that are named.
"""

import asyncio
import contextlib
import hashlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from typing import Any

import grpc.aio

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import addresses, channels, chunks, errors, handlers

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"]


class FakeWorker:
    """Answers some calls of the worker's service; all others are not implemented.

    What a call does is chosen by its request: `engine_id` is the name of an error to raise
    before anything, and `request_id` or `method` the way to answer.
    """

    def __init__(self, *, report: Callable[[str], None] = lambda line: None) -> None:
        self._report = report
        self.blob = bytes(range(256)) * 20_000
        self.fetched_from: list[int] = []
        self.break_after: int | None = None
        self.digest = hashlib.sha256(self.blob).hexdigest()
        self.hold_after: int | None = None
        self.holding = asyncio.Event()
        self.left = asyncio.Event()

    async def get_worker(
        self, request: worker_pb2.GetWorkerRequest
    ) -> worker_pb2.GetWorkerResponse:
        raise_by_name(request.engine_id)
        return worker_pb2.GetWorkerResponse(worker=worker_pb2.Worker(name="fake"))

    async def call_method(
        self, request: worker_pb2.CallMethodRequest
    ) -> worker_pb2.CallMethodResponse:
        if request.method == "crash":
            raise KeyError("a secret prompt")
        if request.method == "large":
            return worker_pb2.CallMethodResponse(value=worker_pb2.Value(data=bytes(9_000_000)))
        return worker_pb2.CallMethodResponse(value=request.args[0])

    async def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncGenerator[worker_pb2.WatchGenerationsResponse, None]:
        """Sends one response and then, as the engine id says, one every 0.1 s or one after it."""
        kind, _, seconds = request.caller.engine_id.partition(":")
        self._report(f"watch of {request.caller.engine_id} begins")
        try:
            yield worker_pb2.WatchGenerationsResponse(is_live=True)
            while kind == "busy":
                await asyncio.sleep(0.1)
                yield worker_pb2.WatchGenerationsResponse()
            await asyncio.sleep(float(seconds))
            yield worker_pb2.WatchGenerationsResponse(incarnation="after the silence")
        finally:
            self._report(f"watch of {request.caller.engine_id} ends")

    async def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncGenerator[worker_pb2.ListGenerationsResponse, None]:
        yield worker_pb2.ListGenerationsResponse(incarnation="i1")
        raise_by_name(request.engine_id)

    async def fetch_result(
        self, request: worker_pb2.FetchResultRequest
    ) -> AsyncGenerator[worker_pb2.FetchResultResponse | bytes | memoryview, None]:
        raise_by_name(request.engine_id)
        self.fetched_from.append(request.offset)
        header = worker_pb2.Result(size=len(self.blob), sha256=self.digest)
        yield worker_pb2.FetchResultResponse(header=header)
        view = memoryview(self.blob)
        for start in range(request.offset, len(self.blob), chunks.CHUNK_SIZE):
            if self.break_after is not None and start >= self.break_after:
                self.break_after = None
                raise errors.WorkerGoneError("the stream broke")
            if self.hold_after is not None and start >= self.hold_after:
                await self._hold()
            frame = chunks.frame_data(view[start : start + chunks.CHUNK_SIZE])
            yield memoryview(frame) if start else frame

    async def fetch_checkpoint(
        self, request: worker_pb2.FetchCheckpointRequest
    ) -> AsyncGenerator[worker_pb2.FetchCheckpointResponse, None]:
        """Sends data as messages, as a worker in another language would."""
        info = worker_pb2.CheckpointInfo(size=len(self.blob), sha256=self.digest, format=7)
        yield worker_pb2.FetchCheckpointResponse(header=info)
        for start in range(request.offset, len(self.blob), chunks.CHUNK_SIZE):
            yield worker_pb2.FetchCheckpointResponse(
                data=self.blob[start : start + chunks.CHUNK_SIZE]
            )

    async def _hold(self) -> None:
        """Waits until the client leaves."""
        self.holding.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def import_checkpoint(
        self, requests: AsyncIterator[worker_pb2.ImportCheckpointRequest]
    ) -> worker_pb2.ImportCheckpointResponse:
        digest = hashlib.sha256()
        async for request in requests:
            digest.update(request.data)
        return worker_pb2.ImportCheckpointResponse(checkpoint_reference=digest.hexdigest())

    def __getattr__(self, name: str) -> Callable[[Any], Any]:  # any other call of the service
        if name not in {handlers.snake_case(method.name) for method in SERVICE.methods}:
            raise AttributeError(name)

        async def refuse(request: object) -> object:
            raise errors.NotImplementedByWorkerError(f"{name} is not offered by this worker")

        return refuse


def raise_by_name(name: str) -> None:
    """Raises the error of a class name, with all that an error can carry."""
    if not name:
        return
    error_class: type[errors.KubediffusionError] = getattr(errors, name)
    raise error_class(
        "wanted é; found ü",
        violations=[errors.Violation("height", "must be 1 or more; found -8")],
        retry_delay=1.5,
        metadata={"worker": "w0"},
    )


@contextlib.asynccontextmanager
async def serving(
    servicer: object,
    address: str = "127.0.0.1:0",
    *,
    tls: channels.TlsFiles | None = None,
    admit: handlers.Admission | None = None,
    without: Collection[str] = (),
) -> AsyncIterator[str]:
    """Serves until the block ends, without some options; gives the address with its real port."""
    options = [pair for pair in channels.SERVER_OPTIONS if pair[0] not in without]
    server = grpc.aio.server(options=options)
    handler = handlers.generic_handler(servicer, SERVICE, admit=admit)
    server.add_generic_rpc_handlers((handler,))
    listening: addresses.Address = channels.add_listener(server, address, tls=tls)
    await server.start()
    try:
        yield str(listening)
    finally:
        await server.stop(0)


async def _serve(address: str, without: Collection[str]) -> None:
    def report(line: str) -> None:
        print(line, flush=True)  # noqa: T201  # it is how the program talks

    async with serving(FakeWorker(report=report), address, without=without) as listening:
        report(listening)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2:]))

"""A worker without a model: the real wire, and generations that end at once.

Also a program with the flags of `kubediffusion-worker`, whose `--model` says how it fares:

    ok              serves
    bad-model       ends with code 3 and one clear line
    crash           ends with code 70 before it listens
    never-ready     listens, but stays STARTING
    deaf            serves and ignores SIGTERM
"""

import argparse
import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import grpc.aio

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import channels, chunks, errors, handlers, identifiers, values

RESULT_CHUNKS = 5
"""Of 1 MB, in every result."""


class ScriptedService:
    """Answers the calls of the wire from memory.

    Attributes:
        fetch_offsets: Where each transfer of a result began.
        held: Cleared to stop transfers after their second chunk.
        checkpoints: Of each request id, by step; `take_checkpoint` adds one.
        imported: Checkpoints by their reference.
        drained: The policies of all drains.
    """

    def __init__(self, name: str = "scripted", state: "worker_pb2.WorkerState | None" = None):
        self.name = name
        self.incarnation = identifiers.new_incarnation()
        self.state = worker_pb2.WORKER_STATE_SERVING if state is None else state
        self.generations: dict[tuple[str, str], worker_pb2.Generation] = {}
        self.fetch_offsets: list[int] = []
        self.held = asyncio.Event()
        self.held.set()
        self.news = asyncio.Event()
        self.corrupt = False
        self.checkpoints: dict[str, dict[int, bytes]] = {}
        self.imported: dict[str, bytes] = {}
        self.drained: list[worker_pb2.DrainPolicy] = []

    async def get_worker(
        self, request: worker_pb2.GetWorkerRequest
    ) -> worker_pb2.GetWorkerResponse:
        return worker_pb2.GetWorkerResponse(
            worker=worker_pb2.Worker(
                name=self.name,
                incarnation=self.incarnation,
                process_id=os.getpid(),
                state=self.state,
                methods=["echo", "identity", "environment", "sleep", "fail"],
            )
        )

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest
    ) -> worker_pb2.SubmitGenerationResponse:
        key = (request.caller.engine_id, request.request_id)
        is_created = key not in self.generations
        if is_created:
            data = result_bytes(request.request_id)
            self.generations[key] = worker_pb2.Generation(
                engine_id=key[0],
                request_id=key[1],
                state=worker_pb2.GENERATION_STATE_SUCCEEDED,
                result=worker_pb2.Result(size=len(data), sha256=_digest(data)),
            )
            self.news.set()
        return worker_pb2.SubmitGenerationResponse(
            generation=self.generations[key],
            is_created=is_created,
            incarnation=self.incarnation,
        )

    async def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncIterator[worker_pb2.WatchGenerationsResponse]:
        yield worker_pb2.WatchGenerationsResponse(
            incarnation=self.incarnation, state=self.state, is_live=True
        )
        told: set[tuple[str, str]] = set()
        while True:
            for key in self.generations.keys() - told:
                told.add(key)
                event = worker_pb2.GenerationEvent(
                    engine_id=key[0],
                    request_id=key[1],
                    sequence=1,
                    succeeded=worker_pb2.SucceededEvent(result=self.generations[key].result),
                )
                yield worker_pb2.WatchGenerationsResponse(events=[event])
            self.news.clear()
            await self.news.wait()

    async def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncIterator[worker_pb2.ListGenerationsResponse]:
        yield worker_pb2.ListGenerationsResponse(
            generations=self.generations.values(), incarnation=self.incarnation
        )

    async def fetch_result(
        self, request: worker_pb2.FetchResultRequest
    ) -> AsyncIterator[worker_pb2.FetchResultResponse | bytes]:
        generation = self._generation(request.engine_id, request.request_id)
        self.fetch_offsets.append(request.offset)
        data = result_bytes(request.request_id)
        yield worker_pb2.FetchResultResponse(header=generation.result)
        if self.corrupt:
            data = data[:-1] + b"?"
        for number, start in enumerate(range(request.offset, len(data), chunks.CHUNK_SIZE)):
            if number == 2:
                await self.held.wait()
            yield chunks.frame_data(data[start : start + chunks.CHUNK_SIZE])

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest
    ) -> worker_pb2.AckGenerationResponse:
        key = (request.caller.engine_id, request.request_id)
        return worker_pb2.AckGenerationResponse(
            is_released=self.generations.pop(key, None) is not None
        )

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest
    ) -> worker_pb2.CancelGenerationResponse:
        generation = self._generation(request.caller.engine_id, request.request_id)
        return worker_pb2.CancelGenerationResponse(state=generation.state)

    async def call_method(
        self, request: worker_pb2.CallMethodRequest
    ) -> worker_pb2.CallMethodResponse:
        args = [values.decode(value) for value in request.args]
        kwargs = {name: values.decode(value) for name, value in request.kwargs.items()}
        answer = await self._called(request.method, args, kwargs)
        return worker_pb2.CallMethodResponse(value=values.encode(answer))

    async def _called(self, method: str, args: list[object], kwargs: dict[str, object]) -> object:
        match method:
            case "echo":
                return [args, kwargs]
            case "identity":
                return {"name": self.name, "pid": os.getpid(), "incarnation": self.incarnation}
            case "environment":
                return os.environ.get(str(args[0]))
            case "sleep":
                await asyncio.sleep(3600)
                return None
            case "fail":
                raise errors.PipelineError("it was asked to fail")
            case _:
                raise errors.MethodNotAllowedError(f"no method {method!r}")

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest
    ) -> worker_pb2.LoadAdapterResponse:
        return worker_pb2.LoadAdapterResponse(adapter=worker_pb2.Adapter(name=request.name))

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest
    ) -> worker_pb2.UnloadAdapterResponse:
        return worker_pb2.UnloadAdapterResponse(is_unloaded=False)

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest
    ) -> worker_pb2.ListAdaptersResponse:
        return worker_pb2.ListAdaptersResponse()

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest
    ) -> worker_pb2.PauseGenerationResponse:
        raise errors.NotImplementedByWorkerError("a scripted worker cannot pause")

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest
    ) -> worker_pb2.UnpauseGenerationResponse:
        raise errors.NotImplementedByWorkerError("a scripted worker cannot pause")

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest
    ) -> worker_pb2.TakeCheckpointResponse:
        self._generation(request.caller.engine_id, request.request_id)
        taken = self.checkpoints.setdefault(request.request_id, {})
        step = len(taken) + 1
        taken[step] = checkpoint_bytes(request.request_id, step)
        return worker_pb2.TakeCheckpointResponse(checkpoint=_info(step, taken[step]))

    async def fetch_checkpoint(
        self, request: worker_pb2.FetchCheckpointRequest
    ) -> AsyncIterator[worker_pb2.FetchCheckpointResponse | bytes]:
        taken = self.checkpoints.get(request.request_id, {})
        step = request.step or max(taken, default=0)
        if step not in taken:
            raise errors.CheckpointNotFoundError(f"no checkpoint of step {step}")
        self.fetch_offsets.append(request.offset)
        data = taken[step]
        yield worker_pb2.FetchCheckpointResponse(header=_info(step, data))
        if self.corrupt:
            data = data[:-1] + b"?"
        for number, start in enumerate(range(request.offset, len(data), chunks.CHUNK_SIZE)):
            if number == 2:
                await self.held.wait()
            yield chunks.frame_data(data[start : start + chunks.CHUNK_SIZE])

    async def import_checkpoint(
        self, requests: AsyncIterator[worker_pb2.ImportCheckpointRequest]
    ) -> worker_pb2.ImportCheckpointResponse:
        first = await anext(aiter(requests))
        data = b"".join([request.data async for request in requests])
        if (len(data), _digest(data)) != (first.header.size, first.header.sha256):
            raise errors.InvalidCheckpointError("not the bytes of its header")
        self.imported[first.header.sha256] = data
        return worker_pb2.ImportCheckpointResponse(checkpoint_reference=first.header.sha256)

    async def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        self.drained.append(request.policy)
        self.state = worker_pb2.WORKER_STATE_DRAINED
        return worker_pb2.DrainResponse(state=self.state)

    async def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        self.state = worker_pb2.WORKER_STATE_SERVING
        return worker_pb2.UndrainResponse(state=self.state)

    def _generation(self, engine_id: str, request_id: str) -> worker_pb2.Generation:
        try:
            return self.generations[engine_id, request_id]
        except KeyError:
            raise errors.GenerationNotFoundError(f"no generation {request_id!r}") from None


def result_bytes(request_id: str) -> bytes:
    """Returns the result that every scripted worker makes of a request id."""
    word = request_id.encode() + b" "
    size = RESULT_CHUNKS * chunks.CHUNK_SIZE - 17
    return (word * (size // len(word) + 1))[:size]


def checkpoint_bytes(request_id: str, step: int) -> bytes:
    """Returns the checkpoint that every scripted worker takes."""
    return result_bytes(f"{request_id} after {step}")


def _info(step: int, data: bytes) -> worker_pb2.CheckpointInfo:
    return worker_pb2.CheckpointInfo(
        step=step, size=len(data), sha256=_digest(data), fingerprint="f", format=1
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def serve(service: ScriptedService, address: str) -> tuple[grpc.aio.Server, str]:
    """Starts a server on the running loop; returns it with the real address."""
    server = grpc.aio.server(options=list(channels.SERVER_OPTIONS))
    descriptor = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"]
    server.add_generic_rpc_handlers((handlers.generic_handler(service, descriptor),))
    bound = channels.add_listener(server, address)
    await server.start()
    return server, str(bound)


async def _main(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    if options.model != "deaf":
        loop.add_signal_handler(signal.SIGTERM, ending.set)
    else:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
    if options.parent_fd is not None:
        loop.add_reader(options.parent_fd, lambda: os._exit(0))
    state = None
    if options.model == "never-ready":
        state = worker_pb2.WORKER_STATE_STARTING
    service = ScriptedService(options.name, state)
    server, address = await serve(service, options.listen)
    told = {
        "event": "listening",
        "address": address,
        "incarnation": service.incarnation,
        "name": options.name,
        "pid": os.getpid(),
    }
    print(json.dumps(told), flush=True)  # noqa: T201
    print("scripted worker is up", file=sys.stderr, flush=True)  # noqa: T201
    await ending.wait()
    await server.stop(0)


def main() -> None:
    """Runs a scripted worker as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="ok")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--name", default="scripted")
    parser.add_argument("--parent-fd", type=int)
    options, _ = parser.parse_known_args()
    if options.model == "bad-model":
        print("cannot load the model 'bad-model': no such folder", file=sys.stderr)  # noqa: T201
        sys.exit(3)
    if options.model == "crash":
        sys.exit(70)
    asyncio.run(_main(options))


if __name__ == "__main__":
    main()

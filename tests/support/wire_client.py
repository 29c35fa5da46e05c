"""A client in a process of its own, with the channel that is shipped.

`python tests/support/wire_client.py MODE ADDRESS` prints "ready" once it is connected, and how
it ended: the last event, the class of the error, or the state that the channel went to.
"""

import asyncio
import sys

import grpc
import grpc.aio

from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import channels, errors, status


async def get(channel: grpc.aio.Channel) -> str:
    """Makes one call."""
    stub = worker_pb2_grpc.WorkerServiceStub(channel)
    with status.map_errors():
        response = await stub.GetWorker(worker_pb2.GetWorkerRequest())
    return response.worker.name


async def watch(channel: grpc.aio.Channel, kind: str) -> str:
    """Follows a stream to its end; see FakeWorker.watch_generations for the kinds."""
    stub = worker_pb2_grpc.WorkerServiceStub(channel)
    caller = worker_pb2.Caller(engine_id=kind)
    call = stub.WatchGenerations(worker_pb2.WatchGenerationsRequest(caller=caller))
    last = ""
    async for response in status.map_stream(call):
        if response.is_live:
            say("ready")
        last = response.incarnation or last
    return last


async def idle(channel: grpc.aio.Channel) -> str:
    """Connects, makes no call, and waits until the connection is lost."""
    await get(channel)
    say("ready")
    await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    return "lost"


async def run(mode: str, address: str) -> str:
    """Does what the mode says and returns how it ended."""
    if mode == "get-unconfigured":
        channel = grpc.aio.insecure_channel(address)
    else:
        channel = channels.open_channel(address)
    async with channel:
        try:
            if mode == "idle":
                return await idle(channel)
            if mode.startswith("get"):
                return await get(channel)
            return await watch(channel, mode)
        except errors.KubediffusionError as error:
            return type(error).__name__


def say(line: str) -> None:
    """Tells the parent process."""
    print(line, flush=True)  # noqa: T201  # it is how the program talks


if __name__ == "__main__":
    say(asyncio.run(run(sys.argv[1], sys.argv[2])))

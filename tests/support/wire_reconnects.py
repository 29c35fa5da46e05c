"""A race of two channels to a peer that accepts every connection only to cut it.

`python tests/support/wire_reconnects.py OPTION ATTEMPTS` prints how often a channel without
the option has tried to connect by the time that the shipped one has done so ATTEMPTS times.
"""

import asyncio
import sys
from collections.abc import Callable

import grpc.aio

from kubediffusion_wire import channels


async def refusing(tried: Callable[[], None]) -> str:
    """Listens until the end of the program; returns the address."""

    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried()
        writer.transport.abort()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def race(option: str, attempts: int) -> int:
    """Returns the attempts of the channel without the option."""
    counts = [0, 0]
    is_over = asyncio.Event()
    calls = []

    def tried(number: int) -> None:
        counts[number] += 1
        if counts[0] == attempts:
            is_over.set()

    less = [pair for pair in channels.CLIENT_OPTIONS if pair[0] != option]
    for number, options in enumerate((channels.CLIENT_OPTIONS, less)):
        address = await refusing(lambda number=number: tried(number))
        channel = grpc.aio.insecure_channel(address, options=list(options))
        calls.append(channel.unary_unary("/any/call")(b"", wait_for_ready=True))
    await is_over.wait()
    found = counts[1]
    for call in calls:
        call.cancel()
    return found


if __name__ == "__main__":
    print(asyncio.run(race(sys.argv[1], int(sys.argv[2]))), flush=True)  # noqa: T201  # its answer

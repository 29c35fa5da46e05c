"""Clients of HTTP/2 that connect, greet, and never say anything again.

`python tests/support/wire_peers.py NAME=ADDRESS…` connects to one address after the other, a
second apart, and prints "NAME is pinged" and "NAME is left" when the server does so.
"""

import asyncio
import sys

_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_EMPTY_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HEADER_SIZE = 9
_PING = 6
"""Types of frames; see RFC 9113, section 6."""


async def be_silent(name: str, address: str, delay: float) -> None:
    """Tells what a server does to a client that answers nothing, from some seconds on."""
    await asyncio.sleep(delay)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_GREETING + _EMPTY_SETTINGS)
    while header := await reader.read(1):
        header += await reader.readexactly(_HEADER_SIZE - 1)
        await reader.readexactly(int.from_bytes(header[:3], "big"))
        if header[3] == _PING:
            say(f"{name} is pinged")
    say(f"{name} is left")
    writer.close()


async def run(targets: list[str]) -> None:
    """Is all the clients."""
    pairs = [target.split("=", 1) for target in targets]
    clients = [be_silent(name, address, delay) for delay, (name, address) in enumerate(pairs)]
    await asyncio.gather(*clients)


def say(line: str) -> None:
    """Tells the parent process."""
    print(line, flush=True)  # noqa: T201  # it is how the program talks


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1:]))

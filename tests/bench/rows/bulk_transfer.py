"""P2: large results over gRPC, as a share of a plain copy over TCP beside it.

Both begin with a request for bytes that another process or thread holds, and end with a fresh
buffer that numpy can take. The plain copy checks nothing: it is the ceiling.
"""

import asyncio
import hashlib
import random
import socket
import statistics
import threading
import time
from collections.abc import Sequence

import figures
import numpy
import processes
import submissions

from kubediffusion._links import remote

_SIZES = (16_000_000, 64_000_000)
_GOAL = 50.0


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Fetches one result again and again from a worker process on loopback."""
    with processes.workers(processes.FAKE_WORKER, "--model", "fake", over_tcp=True) as addresses:
        return asyncio.run(_measure(settings, addresses[0]))


async def _measure(settings: figures.Settings, address: str) -> list[figures.Figure]:
    link = remote.RemoteLink("bench", address)
    try:
        return [await _figure(settings, link, size) for size in _SIZES]
    finally:
        await link.close()


async def _figure(
    settings: figures.Settings, link: remote.RemoteLink, size: int
) -> figures.Figure:
    request_id = f"bulk-{size}"
    await submissions.finish(link, submissions.request(request_id, size=size))
    payload = random.Random(1).randbytes(size)
    shares, fetched, hashed = [], [], []
    for round_ in range(2 * settings.rounds + 1):
        before = await asyncio.to_thread(_raw_copy, payload)
        seconds = await _fetch(link, request_id)
        after = await asyncio.to_thread(_raw_copy, payload)
        if round_:
            shares.append(100 * statistics.mean((before, after)) / seconds)
            fetched.append(size / seconds / 1e9)
            hashed.append(size / _hash(payload) / 1e9)
    share = statistics.median(shares)
    speed = statistics.median(fetched)
    return figures.Figure(
        row="P2",
        what=f"fetch of {size // 1_000_000} MB with its digest checked",
        value=share,
        unit="% of raw TCP",
        goal=_GOAL,
        is_lower_better=False,
        baseline=(
            f"raw TCP {100 * speed / share:.2f} GB/s, fetched {speed:.2f} GB/s, "
            f"sha256 alone {statistics.median(hashed):.2f} GB/s"
        ),
        samples=len(shares),
    )


async def _fetch(link: remote.RemoteLink, request_id: str) -> float:
    started = time.perf_counter()
    await link.fetch_result(submissions.ENGINE_ID, request_id)
    return time.perf_counter() - started


def _hash(payload: bytes) -> float:
    started = time.perf_counter()
    hashlib.sha256(payload)
    return time.perf_counter() - started


def _raw_copy(payload: bytes) -> float:
    """Returns the seconds of one copy through a TCP connection on loopback."""
    size = len(payload)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname()[1], payload))
        sender.start()
        connection, _ = server.accept()
        with connection:
            started = time.perf_counter()
            target = numpy.empty(size, numpy.uint8).data
            connection.sendall(b"?")
            received = 0
            while received < size:
                received += connection.recv_into(target[received:])
            seconds = time.perf_counter() - started
        sender.join()
    return seconds


def _send(port: int, payload: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.recv(1)
        connection.sendall(payload)

"""P8: results from `mp` workers, against the transport of vLLM-Omni's and FastVideo's `mp`.

Theirs is a pickled array through `multiprocessing`'s pipe; ours is gRPC over a Unix socket.
"""

import asyncio
import multiprocessing
import multiprocessing.connection
import statistics
import time
from collections.abc import Sequence

import figures
import numpy
import processes
import submissions

from kubediffusion._links import remote

_SIZE = 16_000_000


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Moves 16 MB from a child process both ways, in turns."""
    with (
        processes.workers(processes.FAKE_WORKER, "--model", "fake") as addresses,
        asyncio.Runner() as runner,
    ):
        link = runner.run(_linked(addresses[0]))
        near, far = multiprocessing.get_context("spawn").Pipe()
        child = multiprocessing.get_context("spawn").Process(target=_serve, args=(far,))
        child.start()
        try:
            ours, theirs = figures.in_turns(
                [lambda: runner.run(_fetch(link)), lambda: _receive(near)], settings.rounds * 3
            )
        finally:
            near.send(None)
            child.join()
            runner.run(link.close())
    return [
        figures.Figure(
            row="P8",
            what="16 MB from an mp worker, times as fast as a pickled array in a pipe",
            value=figures.median_ratio(theirs, ours),
            unit="x",
            goal=1.0,
            is_lower_better=False,
            baseline=(
                f"pipe {1000 * statistics.median(theirs):.1f} ms, "
                f"ours {1000 * statistics.median(ours):.1f} ms with its digest checked"
            ),
            samples=len(ours),
        )
    ]


async def _linked(address: str) -> remote.RemoteLink:
    link = remote.RemoteLink("bench", address)
    await submissions.finish(link, submissions.request("transport", size=_SIZE))
    return link


async def _fetch(link: remote.RemoteLink) -> float:
    started = time.perf_counter()
    await link.fetch_result(submissions.ENGINE_ID, "transport")
    return time.perf_counter() - started


def _receive(connection: "multiprocessing.connection.Connection[int | None, object]") -> float:
    started = time.perf_counter()
    connection.send(_SIZE)
    connection.recv()
    return time.perf_counter() - started


def _serve(connection: "multiprocessing.connection.Connection[object, int | None]") -> None:
    # Not zeros: pages that nobody has written to are all the same one.
    array = numpy.random.default_rng(1).integers(0, 256, _SIZE, numpy.uint8)
    while connection.recv() is not None:
        connection.send(array)

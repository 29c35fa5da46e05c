"""P7: how long a cancel takes, from the call to the event that confirms it."""

import asyncio
import statistics
import time
from collections.abc import Sequence

import figures
import processes
import submissions

from kubediffusion._links import remote
from kubediffusion_proto.v1 import worker_pb2

_STEP = 0.05


def measure(settings: figures.Settings) -> Sequence[figures.Figure]:
    """Cancels in mid-generation, at different moments of a step of 50 ms."""
    with processes.workers(processes.BENCH_WORKER, "--model", "sleeping") as addresses:
        return asyncio.run(_measure(settings, addresses[0]))


async def _measure(settings: figures.Settings, address: str) -> list[figures.Figure]:
    link = remote.RemoteLink("bench", address)
    try:
        await _until_serving(link)
        seconds = [await _cancel(link, number) for number in range(settings.rounds * 2)]
    finally:
        await link.close()
    return [
        figures.Figure(
            row="P7",
            what="cancel of a generation with steps of 50 ms, slowest",
            value=1000 * max(seconds),
            unit="ms",
            goal=1000 * _STEP + 20,
            baseline=f"median {1000 * statistics.median(seconds):.0f} ms; a step is 50 ms",
            samples=len(seconds),
        )
    ]


async def _until_serving(link: remote.RemoteLink) -> None:
    while True:
        worker = (await link.get_worker()).worker
        if worker.state == worker_pb2.WORKER_STATE_SERVING:
            return
        await asyncio.sleep(0.1)


async def _cancel(link: remote.RemoteLink, number: int) -> float:
    submission = submissions.request(f"cancel-{number}", steps=100, step_seconds=_STEP)
    await link.submit_generation(submission)
    watch = worker_pb2.WatchGenerationsRequest(
        caller=submissions.caller(), request_ids=[submission.request_id], until_terminal=True
    )
    started = 0.0
    async for response in link.watch_generations(watch):
        for event in response.events:
            if event.HasField("progress") and not started:
                await asyncio.sleep(_STEP * (number % 7) / 7)
                started = time.perf_counter()
                await link.cancel_generation(
                    worker_pb2.CancelGenerationRequest(
                        caller=submissions.caller(), request_id=submission.request_id
                    )
                )
            if event.HasField("cancelled"):
                return time.perf_counter() - started
    raise RuntimeError("the generation was not cancelled")

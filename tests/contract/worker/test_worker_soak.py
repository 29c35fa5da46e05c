"""Nothing grows with the number of generations that a worker has served."""

import asyncio

from served import Served, serving

GENERATIONS = 300


async def _serve_many(worker: Served) -> None:
    client = worker.client()
    watch = client.watch(min_interval=0.1)
    ended = 0
    await anext(aiter(watch))
    for number in range(GENERATIONS):
        await client.submit(f"r{number}", steps=2, size=5000)
    async for response in watch:
        for event in response.events:
            if event.HasField("succeeded"):
                await client.fetch(event.request_id)
                await client.acknowledge(event.request_id)
                ended += 1
        if ended == GENERATIONS:
            return


def test_nothing_but_a_tombstone_is_left_of_an_acknowledged_generation() -> None:
    async def story() -> None:
        async with serving("tcp") as worker:
            await _serve_many(worker)
            parts = worker.runtime._conductor  # pyright: ignore[reportPrivateUsage] # leaks hide
            async with asyncio.timeout(60):
                while parts._jobs:  # pyright: ignore[reportPrivateUsage] # likewise
                    await parts._change()  # pyright: ignore[reportPrivateUsage] # likewise
            machine = worker.runtime.machine
            assert len(machine.tombstones) == GENERATIONS
            left = (
                *(machine.generations, machine.live, machine.runs, machine.encoding),
                *(machine.line, machine.shelf, parts.traces),
                parts._blobs,  # pyright: ignore[reportPrivateUsage] # likewise
            )
            assert [len(part) for part in left] == [0] * len(left)
            assert machine.shelf.bytes == machine.line.size == 0
            assert len(worker.pipeline.executed) == GENERATIONS

    asyncio.run(story())

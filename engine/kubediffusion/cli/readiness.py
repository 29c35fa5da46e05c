"""Waits until started workers serve."""

import asyncio
import time
from collections.abc import Callable, Sequence

from kubediffusion.cli import fleet, launch, observations, observer, options
from kubediffusion_wire import errors, registry

_POLL_INTERVAL = 0.1
"""In seconds; loading a model takes several."""


async def wait_serving(
    started: Sequence[launch.Started],
    *,
    timeout: float,
    on_serving: Callable[[observations.WorkerView], object],
) -> list[observations.WorkerView]:
    """Wait until all workers serve, and answer their descriptions in order.

    Args:
        started: Worker processes that are our children.
        timeout: In seconds, for all of them together.
        on_serving: Told of each worker when it serves.

    Raises:
        kubediffusion_wire.errors.WorkerFailedError: One has ended or cannot serve.
        TimeoutError: One has not loaded its model in time.
    """
    tasks = [asyncio.create_task(_wait_one(item, on_serving)) for item in started]
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.gather(*tasks)
    except TimeoutError:
        late = [item.plan for item, task in zip(started, tasks, strict=True) if task.cancelled()]
        logs = ", ".join(f"{worker.name} (log: {worker.log})" for worker in late)
        raise TimeoutError(f"not serving after {timeout:g} s: {logs}") from None
    finally:
        # gather leaves the others running when one of them fails.
        for task in tasks:
            task.cancel()


async def _wait_one(
    item: launch.Started, on_serving: Callable[[observations.WorkerView], object]
) -> observations.WorkerView:
    reach = options.Reach(registry=item.plan.registry)
    while True:
        launch.check_running(item)
        endpoint = _announced(item)
        if endpoint is not None:
            async with fleet.connect(reach, [endpoint]) as links:
                view = await observer.describe(links[0], now=time.time())
            if view.state == "SERVING":
                on_serving(view)
                return view
            if view.state == "FAILED":
                raise errors.WorkerFailedError(
                    f"worker {item.plan.name!r} failed: {launch.last_words(item.plan.log)}"
                )
        await asyncio.sleep(_POLL_INTERVAL)


def _announced(item: launch.Started) -> fleet.Endpoint | None:
    for entry in registry.read(item.plan.registry):
        if entry.name == item.plan.name and entry.pid == item.process.pid:
            return fleet.Endpoint(name=entry.name, address=entry.address)
    return None

"""Following a source of workers through its failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator

from kubediffusion._discovery import protocol

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""After a failure of the source; it is a local folder or a server that many ask."""


async def follow(
    discovery: protocol.Discovery, *, retry_seconds: float = RETRY_SECONDS
) -> AsyncIterator[tuple[protocol.Endpoint, ...]]:
    """Yield the sets of a source, asking it again after every failure.

    Nothing is yielded for a failure: the last good set holds. Ends when the source ends.
    """
    is_failing = False
    while True:
        endpoints = discovery.endpoints()
        try:
            async with contextlib.AsyncExitStack() as stack:
                if isinstance(endpoints, AsyncGenerator):
                    await stack.enter_async_context(contextlib.aclosing(endpoints))
                async for found in endpoints:
                    if is_failing:
                        logger.info("discovery works again")
                    is_failing = False
                    yield found
            return
        except Exception as error:  # noqa: BLE001  # a source may be the user's code
            if not is_failing:
                logger.warning(
                    "discovery failed; keeping the last known workers",
                    extra={"source": type(discovery).__name__, "cause": str(error)},
                )
            is_failing = True
        await asyncio.sleep(retry_seconds)

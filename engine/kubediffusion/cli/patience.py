"""How long a command waits, in the user's words when it gives up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def at_most(timeout: float | None, complaint: str) -> AsyncIterator[None]:
    """Bound a block.

    Args:
        timeout: In seconds; None for ever.
        complaint: What the error says is the case.

    Raises:
        TimeoutError: It took longer.
    """
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        raise TimeoutError(f"{complaint} after {timeout:g} s") from None

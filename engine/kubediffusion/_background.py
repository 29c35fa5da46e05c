"""Calling foreign functions, which may block or hang, from the engine's loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

from kubediffusion_wire import errors


async def call(
    function: Callable[..., Any],  # Any: foreign functions take and return anything
    *args: Any,
    timeout: float | None = None,
) -> Any:
    """Call a function that may be sync or async, and return its result.

    A coroutine function runs on the loop; any other in a daemon thread of its own, so that
    one that hangs holds up neither the loop nor the end of the process. After the timeout
    a coroutine is cancelled, while a thread goes on and its result is dropped.

    Raises:
        RpcTimeoutError: It took more than `timeout` seconds.
    """
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            if inspect.iscoroutinefunction(function):
                return await function(*args)
            result = await _in_thread(function, *args)
            return await result if inspect.isawaitable(result) else result
    except TimeoutError as error:
        if not deadline.expired():
            raise
        name = getattr(function, "__name__", type(function).__name__)
        raise errors.RpcTimeoutError(f"{name}() did not return within {timeout} s") from error


async def _in_thread(function: Callable[..., Any], *args: Any) -> Any:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():  # Its caller has gone.
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        result, failure = None, None
        try:
            result = function(*args)
        except BaseException as error:  # noqa: BLE001  # raised again in the caller
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, _raisable(failure))

    threading.Thread(target=run, name="kubediffusion-foreign", daemon=True).start()
    return await future


def _raisable(error: BaseException | None) -> BaseException | None:
    """Return an error that a future can hold and that ends nothing but the call."""
    if error is None or (isinstance(error, Exception) and not isinstance(error, StopIteration)):
        return error
    return RuntimeError(f"a foreign function raised {type(error).__name__}")

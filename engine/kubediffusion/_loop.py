"""The one thread with an event loop that owns everything asynchronous of an engine.

grpc.aio has one poller per process and gets slow and noisy when several event loops use
it, so all engines of a process share one loop: each holds an `EngineLoop`, and the thread
ends with the last of them.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kubediffusion import errors

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CLOSED = "this engine is closed; build a new one"

STOP_TIMEOUT = 5.0
"""Seconds that pending work gets to end after it was cancelled."""


class ForkedProcessError(errors.GiveUpError, RuntimeError):
    """Is raised when an engine is used in a process forked from the one that built it."""

    status_code = "FAILED_PRECONDITION"
    reason = "FORKED_PROCESS"


class LoopClosedError(errors.EngineClosedError):
    """Is raised when a share of the loop is used after it was closed."""


class _LoopThread:
    """A daemon thread that runs an event loop until it is told to end."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self.shares = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="kubediffusion-loop", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def end(self, timeout: float) -> None:
        """Cancel what is left, close the loop and join the thread."""
        ending = asyncio.run_coroutine_threadsafe(self._wind_down(timeout), self.loop)
        try:
            ending.result(timeout + 1.0)
        except TimeoutError:
            logger.warning("event loop is blocked; its thread is left behind")
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout)

    async def _wind_down(self, timeout: float) -> None:
        await _cancel(asyncio.all_tasks() - {asyncio.current_task()}, timeout)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


async def _cancel(tasks: set[asyncio.Task[Any]], timeout: float) -> None:  # Any: any result
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=timeout)


class _Process:
    """What this process shares between its engines."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: _LoopThread | None = None
        self.has_forked_from_engine = False

    def share(self) -> _LoopThread:
        with self.lock:
            if self.has_forked_from_engine:
                raise ForkedProcessError(
                    "this process was forked from one with a running engine, where gRPC "
                    "cannot work; start it with the 'spawn' method or build the engine "
                    "after the fork only"
                )
            if self.thread is None:
                self.thread = _LoopThread()
            self.thread.shares += 1
            return self.thread

    def give_back(self, thread: _LoopThread, timeout: float) -> None:
        with self.lock:
            thread.shares -= 1
            if thread.shares or self.thread is not thread:
                return
            # Under the lock: an engine that is built now must not start a second loop.
            thread.end(timeout)
            self.thread = None

    def after_fork_in_child(self) -> None:
        self.has_forked_from_engine = self.has_forked_from_engine or self.thread is not None
        self.lock = threading.Lock()
        self.thread = None

    def at_exit(self) -> None:
        # A daemon thread that is frozen in the middle of a poll by the interpreter's end
        # makes grpc print noise; an engine that was not closed is stopped here.
        with self.lock:
            thread, self.thread = self.thread, None
        if thread is not None and thread.process_id == os.getpid():
            thread.end(STOP_TIMEOUT)


_process = _Process()
os.register_at_fork(after_in_child=_process.after_fork_in_child)
atexit.register(_process.at_exit)


class EngineLoop:
    """A share in the event-loop thread of this process.

    Building one starts the thread where it does not run yet. All methods but `close` may
    be called from any thread; `run` and `close` not from the loop's own.

    Raises:
        ForkedProcessError: This process was forked from one with a running engine.
    """

    def __init__(self) -> None:
        self._thread: _LoopThread | None = _process.share()
        self._process_id = os.getpid()
        self._tasks: set[asyncio.Task[Any]] = set()  # Any: of whatever result

    @property
    def is_closed(self) -> bool:
        """Whether `close` has been called."""
        return self._thread is None

    @property
    def is_usable(self) -> bool:
        """Whether it is open, and in the process that built it."""
        return self._thread is not None and os.getpid() == self._process_id

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on the loop's own thread."""
        return self._thread is not None and threading.current_thread() is self._thread.thread

    def check_usable(self) -> None:
        """Refuse use after a fork or after `close`.

        Raises:
            ForkedProcessError: This is a forked child of the process that built this.
            LoopClosedError: `close` has been called.
        """
        if os.getpid() != self._process_id:
            raise ForkedProcessError(
                f"this engine was built in process {self._process_id} and cannot be used "
                f"in process {os.getpid()}, which was forked from it; build an engine in "
                "each process and start processes with the 'spawn' method"
            )
        if self._thread is None:
            raise LoopClosedError(_CLOSED)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine on the loop; cancelling the future cancels it.

        Raises:
            ForkedProcessError: This is a forked child of the process that built this.
            LoopClosedError: `close` has been called.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            self.call_soon(self._start, coroutine, future)
        except (LoopClosedError, ForkedProcessError):
            coroutine.close()  # Else Python warns that it was never awaited.
            raise
        return future

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and wait for its result.

        Args:
            coroutine: Is cancelled when the wait ends early.
            timeout: In seconds; None waits without end.

        Raises:
            TimeoutError: The coroutine did not end within `timeout`.
            ForkedProcessError: This is a forked child of the process that built this.
            LoopClosedError: `close` has been called.
        """
        if self.is_current:
            coroutine.close()
            raise RuntimeError("a blocking call on the engine's event loop would never end")
        future = self.submit(coroutine)
        try:
            return future.result(timeout)
        except concurrent.futures.CancelledError:
            raise LoopClosedError("the engine was closed during the call") from None
        finally:
            future.cancel()  # Matters after a timeout or an interrupt; else it has ended.

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call a plain function on the loop's thread, soon.

        Raises:
            ForkedProcessError: This is a forked child of the process that built this.
            LoopClosedError: `close` has been called.
        """
        self.check_usable()
        thread = self._thread
        try:
            if thread is None:  # Closed by another thread just now.
                raise LoopClosedError(_CLOSED)
            thread.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError as error:  # asyncio's own for a closed loop.
            raise LoopClosedError(_CLOSED) from error

    def close(self, timeout: float = STOP_TIMEOUT) -> None:
        """Cancel what was started through this share; end the thread with the last share.

        Idempotent, and without effect in a forked child. A task that ignores its cancel
        is left behind after `timeout` seconds.
        """
        thread, self._thread = self._thread, None
        if thread is None or os.getpid() != self._process_id:
            return
        if threading.current_thread() is thread.thread:
            self._thread = thread
            raise RuntimeError("the engine's event loop cannot be closed from itself")
        cancelling = asyncio.run_coroutine_threadsafe(self._cancel_own(timeout), thread.loop)
        try:
            cancelling.result(timeout + 1.0)
        except TimeoutError:
            logger.warning("event loop is blocked; its tasks are left behind")
        _process.give_back(thread, timeout)

    async def _cancel_own(self, timeout: float) -> None:
        await _cancel(set(self._tasks), timeout)

    def _start(
        self, coroutine: Coroutine[Any, Any, T], future: concurrent.futures.Future[T]
    ) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda ended: _settle(ended, future))
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda ended: _follow_cancel(ended, task, loop))


def _settle(task: asyncio.Task[T], future: concurrent.futures.Future[T]) -> None:
    """Copy what became of a task; the loop's thread calls it."""
    if task.cancelled():
        future.cancel()
    if not future.set_running_or_notify_cancel():
        return
    error = task.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _follow_cancel(
    future: concurrent.futures.Future[T],
    task: asyncio.Task[T],
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Cancel the task of a cancelled future; whoever cancelled it calls this."""
    if future.cancelled() and not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)

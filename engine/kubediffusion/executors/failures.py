"""Failures of workers, and who is told of them."""

from __future__ import annotations

import collections
import inspect
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

REMEMBERED_FAILURES = 1024
"""So many lives of workers are known to have been reported; more would be a leak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFailure:
    """What a failure callback is told."""

    worker: str
    """The worker's name."""

    incarnation: str
    """The life that ended; empty where it is not known."""

    reason: str
    """For people, for example "was killed by SIGKILL"."""

    is_replaced: bool
    """Whether the executor starts another worker in its place."""


FailureCallback = Callable[[WorkerFailure], object] | Callable[[], object]
"""Called with the failure if it accepts an argument, else with nothing."""


class FailureCallbacks:
    """Calls every callback once for every failure, off the reporting thread.

    Callbacks run one after the other on a daemon thread that lives only while there is
    something to tell.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[WorkerFailure], object]] = []
        self._seen: collections.OrderedDict[tuple[str, str], None] = collections.OrderedDict()
        self._waiting: queue.SimpleQueue[WorkerFailure] = queue.SimpleQueue()
        self._is_calling = False

    def register(self, callback: FailureCallback) -> None:
        """Add a callback; it hears of failures from now on.

        Raises:
            TypeError: It is not callable, or needs more than one argument.
        """
        with self._lock:
            self._callbacks.append(_with_argument(callback))

    def report(self, failure: WorkerFailure) -> None:
        """Tell all callbacks, unless this life's end has been reported before."""
        with self._lock:
            if self._is_known(failure) or not self._callbacks:
                return
            self._waiting.put(failure)
            if self._is_calling:
                return
            self._is_calling = True
        threading.Thread(target=self._call, name="kubediffusion-failures", daemon=True).start()

    def _is_known(self, failure: WorkerFailure) -> bool:
        if not failure.incarnation:
            return False
        key = (failure.worker, failure.incarnation)
        is_known = key in self._seen
        self._seen[key] = None
        if len(self._seen) > REMEMBERED_FAILURES:
            self._seen.popitem(last=False)
        return is_known

    def _call(self) -> None:
        while True:
            with self._lock:
                if self._waiting.empty():
                    self._is_calling = False
                    return
                failure, callbacks = self._waiting.get(), tuple(self._callbacks)
            for callback in callbacks:
                _call_safely(callback, failure)


def _call_safely(callback: Callable[[WorkerFailure], object], failure: WorkerFailure) -> None:
    try:
        callback(failure)
    except Exception:  # The user's code: whatever it raises must not silence the others.
        logger.exception("failure callback raised", extra={"worker": failure.worker})


def _with_argument(callback: FailureCallback) -> Callable[[WorkerFailure], object]:
    """Return a callable of one argument, whatever the callback accepts."""
    if not callable(callback):
        raise TypeError(f"a failure callback must be callable, got {callback!r}")
    try:
        signature = inspect.signature(callback)
    except ValueError:  # Some built-in callables have none.
        return callback  # type: ignore[return-value]  # Taken at its word.
    if _accepts(signature, 1):
        return callback  # type: ignore[return-value]  # The signature has been checked.
    if _accepts(signature, 0):
        return lambda _: callback()  # type: ignore[call-arg]  # As above.
    raise TypeError(f"a failure callback takes one argument or none, got {callback!r}")


def _accepts(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True

"""Makes a worker end with the process that started it, even if that one was killed.

A pipe that the parent holds open says more than the parent's process id, which may be taken
by another process. The parent-death signal helps where this process hangs.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def follow(parent_fd: int, last_act: Callable[[], None]) -> None:
    """End this process at once when the other end of a pipe is closed.

    Args:
        parent_fd: The reading end, inherited from the parent.
        last_act: Called before, to leave no files behind.

    Raises:
        OSError: There is no such file descriptor.
    """
    os.fstat(parent_fd)
    os.set_inheritable(parent_fd, False)
    _ask_for_signal()
    threading.Thread(target=_wait, args=(parent_fd, last_act), name="parent", daemon=True).start()


def _wait(parent_fd: int, last_act: Callable[[], None]) -> None:
    try:
        while os.read(parent_fd, 4096):
            pass
    except OSError:
        pass  # As good as an end.
    try:
        last_act()
    finally:
        # Not sys.exit: nobody is left for whom anything could be finished.
        os._exit(0)


def _ask_for_signal() -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

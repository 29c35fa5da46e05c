"""Processes by their ids, whether they are our children or not."""

import os
import pathlib
import signal
import time
from collections.abc import Sequence

_POLL_INTERVAL = 0.05
"""In seconds; nobody tells us of the end of a process that is not our child."""


def is_running(process_id: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        stat = pathlib.Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        # It ended just now; or there is no /proc, as on macOS.
        return not pathlib.Path("/proc/self").exists()
    # The name, in parentheses, may itself hold blanks and parentheses (proc(5)).
    return stat.rpartition(")")[2].split()[0] != "Z"


def send(process_ids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may have ended already."""
    for process_id in process_ids:
        try:
            os.kill(process_id, number)
        except ProcessLookupError:
            continue


def wait_ended(process_ids: Sequence[int], *, timeout: float) -> tuple[int, ...]:
    """Wait until processes have ended, and answer those that have not.

    Args:
        process_ids: Of any processes.
        timeout: In seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        left = tuple(pid for pid in process_ids if is_running(pid))
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(_POLL_INTERVAL)

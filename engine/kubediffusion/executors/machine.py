"""What of this machine its workers have to share."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_OWN_CGROUP = pathlib.Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What of a machine matters for how workers share it."""

    cores: int
    """That this process may use, at least 1."""

    has_quota: bool = False
    """Whether a quota of time leaves fewer than there seem to be, which torch does not see."""

    device_files: Sequence[str]
    """Names in /dev."""

    environment: Mapping[str, str]


def this_one() -> Machine:
    """Look at the machine that this process runs on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seen = cores or 1
    allowed = min(seen, quota(_CGROUPS, _OWN_CGROUP) or seen)
    return Machine(
        cores=allowed,
        has_quota=allowed < seen,
        device_files=sorted(os.listdir("/dev")) if os.path.isdir("/dev") else [],
        environment=dict(os.environ),
    )


def quota(root: pathlib.Path, own: pathlib.Path) -> int | None:
    """Return how many whole cores the control groups of a process allow it, at least 1.

    Args:
        root: Where the groups of version 2 are mounted.
        own: The file that names the group of the process.

    Returns:
        None where none of them sets a quota, or they cannot be read.
    """
    shares = [share for share in map(_share, _limits(root, own)) if share is not None]
    return max(1, int(min(shares))) if shares else None


def _limits(root: pathlib.Path, own: pathlib.Path) -> Iterator[pathlib.Path]:
    """List the files of the quotas from the own group up to the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::/"):
            group = pathlib.PurePosixPath(line.removeprefix("0::/"))
            for folder in (group, *group.parents):
                yield root / folder / "cpu.max"


def _share(limit: pathlib.Path) -> float | None:
    """Read a quota in cores: "150000 100000" is 1.5, "max 100000" is none."""
    try:
        used, period = limit.read_text().split()
        return int(used) / int(period)
    except (OSError, ValueError):
        return None

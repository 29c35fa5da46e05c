"""The registry: a folder of small files that local workers keep fresh.

It is how engines and the command line find workers where there is no cluster. One JSON file a
worker, replaced atomically, readable by its owner alone. What is read is not trusted: another
process may have left it half done, or a hostile one may have put it there.
"""

import contextlib
import json
import logging
import os
import pathlib
import re
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kubediffusion_wire import addresses, errors

HEARTBEAT_SECONDS = 2.0
"""How often a worker refreshes its file."""

STALE_SECONDS = 10.0
"""Age from which a file no longer counts: five heartbeats, for machines under load."""

MAX_FILE_BYTES = 65_536
"""Size of a file, at most; a real one has some hundred bytes."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_SUFFIX = ".json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a worker says about itself."""

    name: str
    """1 to 128 characters of [A-Za-z0-9._:-], a letter or a digit first."""
    address: str
    """`host:port` or `unix:/path`."""
    incarnation: str
    pid: int
    host: str = field(default_factory=socket.gethostname)
    """The name of the machine or container in which pid is meant."""
    model: str = ""
    heartbeat: float = HEARTBEAT_SECONDS
    """Seconds between two refreshes."""
    updated: float = field(default_factory=time.time)
    """Unix seconds of the last refresh."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        addresses.parse(self.address)
        if self.pid < 1:
            raise errors.InvalidRequestError.at("pid", f"must be 1 or more; found {self.pid}")
        if not 0 < self.heartbeat < 3600:
            raise errors.InvalidRequestError.at(
                "heartbeat", f"must be between 0 and 3600 seconds; found {self.heartbeat}"
            )


class RegistryError(OSError):
    """Is raised when the folder cannot be used, or should not be trusted."""


def check_name(name: str) -> None:
    """Refuses a worker name that is no safe file name.

    Raises:
        errors.InvalidRequestError: It is not.
    """
    if _NAME.fullmatch(name) is None:
        wanted = "must be 1 to 128 characters of letters, digits, '.', '_', ':' and '-'"
        raise errors.InvalidRequestError.at(
            "name", f"{wanted}, a letter or a digit first; found {name[:200]!r}"
        )


def default_folder() -> pathlib.Path:
    """Returns the folder that is used where none is given.

    `$KUBEDIFFUSION_REGISTRY`, else under `$XDG_RUNTIME_DIR`, else one for each user under the
    folder for temporary files.
    """
    if given := os.environ.get("KUBEDIFFUSION_REGISTRY"):
        return pathlib.Path(given)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return pathlib.Path(runtime, "kubediffusion", "workers")
    return pathlib.Path(tempfile.gettempdir(), f"kubediffusion-{os.geteuid()}", "workers")


def write(entry: Entry, folder: pathlib.Path) -> pathlib.Path:
    """Adds or refreshes the file of a worker and returns its path.

    Raises:
        RegistryError: The folder cannot be made or written to, or belongs to somebody else.
    """
    path = folder / f"{entry.name}{_SUFFIX}"
    temporary = folder / f".{entry.name}.{os.getpid()}.tmp"
    try:
        _make_folder(folder)
        _check_folder(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(entry), file)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _refused(folder, error) from error
    return path


def read(folder: pathlib.Path, *, now: float | None = None) -> list[Entry]:
    """Returns the workers that are alive by their files, sorted by name.

    Broken, stale and foreign files are left out; a folder that does not exist is empty.

    Args:
        folder: Where to look.
        now: Unix seconds; None stands for the clock.

    Raises:
        RegistryError: The folder cannot be read, or belongs to somebody else.
    """
    moment = time.time() if now is None else now
    return [entry for entry in _read_all(folder) if is_alive(entry, now=moment)]


def read_ended(folder: pathlib.Path) -> list[Entry]:
    """Returns the workers of this machine whose processes have ended without removing a file.

    Raises:
        RegistryError: The folder cannot be read, or belongs to somebody else.
    """
    here = socket.gethostname()
    return [
        entry
        for entry in _read_all(folder)
        if entry.host == here and not _process_exists(entry.pid)
    ]


def remove(name: str, folder: pathlib.Path, *, incarnation: str | None = None) -> None:
    """Removes the file of a worker, if it is there.

    Args:
        name: The worker's.
        folder: Where it is.
        incarnation: Leaves the file alone if it is of another one, which took over the name.
    """
    check_name(name)
    path = folder / f"{name}{_SUFFIX}"
    if incarnation is not None and all(
        entry.incarnation != incarnation for entry in _read_file(path)
    ):
        return
    with contextlib.suppress(OSError):
        path.unlink()


def is_alive(entry: Entry, *, now: float) -> bool:
    """Tells whether a worker is there by what its file says, at unix seconds `now`."""
    allowed = max(STALE_SECONDS, 5 * entry.heartbeat)
    # A file from the future, after the clock was set back, counts as fresh for as long.
    # Written so that NaN is stale.
    if not abs(now - entry.updated) <= allowed:
        return False
    return entry.host != socket.gethostname() or _process_exists(entry.pid)


def _read_all(folder: pathlib.Path) -> Iterator[Entry]:
    try:
        _check_folder(folder)
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(folder, error) from error
    for name in names:
        if name.endswith(_SUFFIX) and not name.startswith("."):
            yield from _read_file(folder / name)


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    try:
        facts = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:  # Not Linux, or not ours to see.
        return True
    # A zombie has ended, only its parent does not know yet. The name before the state is in
    # parentheses and may hold any; see proc_pid_stat(5).
    return facts.rpartition(")")[2].split()[:1] not in (["Z"], ["X"])


def _make_folder(folder: pathlib.Path) -> None:
    for missing in reversed([folder, *folder.parents]):
        if not missing.exists():
            with contextlib.suppress(FileExistsError):
                missing.mkdir(mode=0o700)


def _check_folder(folder: pathlib.Path) -> None:
    """Refuses a folder in which another user could have put a file."""
    facts = folder.stat()
    if facts.st_uid not in (os.geteuid(), 0) or facts.st_mode & 0o022:
        raise PermissionError(
            f"must belong to you and be writable by you alone; found owner {facts.st_uid}, "
            f"mode {stat.S_IMODE(facts.st_mode):o}"
        )


def _read_file(path: pathlib.Path) -> Iterator[Entry]:
    try:
        text = _read_text(path)
        entry = _parse(json.loads(text))
        if entry.name != path.name.removesuffix(_SUFFIX):
            raise ValueError("the file's name is not the worker's")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        # Files come and go, and a torn one is replaced by the next heartbeat.
        logger.debug(
            "Skipped a registry file", extra={"file": path.name, "cause": type(error).__name__}
        )
        return
    yield entry


def _read_text(path: pathlib.Path) -> str:
    # O_NONBLOCK: a pipe put there must not hold up the reader.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError("it is too large")
    return data.decode()


def _parse(content: Any) -> Entry:  # whatever JSON holds
    if not isinstance(content, dict):
        raise TypeError("it holds no object")
    known = {
        item.name: _checked(item.name, content[item.name])
        for item in fields(Entry)
        if item.name in content
    }
    return Entry(**known)


def _checked(name: str, value: Any) -> Any:  # whatever JSON holds
    if name == "labels":
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise TypeError("labels are texts by name")
        return value
    if name == "pid":
        wanted: type | tuple[type, ...] = int
    elif name in ("heartbeat", "updated"):
        wanted = (int, float)
    else:
        wanted = str
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise TypeError("a field has the wrong type")
    return value


def _refused(folder: pathlib.Path, error: OSError) -> RegistryError:
    cause = error.strerror or str(error)
    return RegistryError(f"cannot use the registry folder {str(folder)!r}: {cause}")

"""Starts workers on this machine that belong to nobody: no engine, no terminal."""

import hashlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kubediffusion import _config
from kubediffusion.executors import command, machine
from kubediffusion_wire import addresses, errors


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """How to start one worker."""

    name: str
    address: str
    """Where it listens."""
    arguments: tuple[str, ...]
    """The worker's flags beyond name, address and registry; the user's win over ours."""
    registry: pathlib.Path
    log: pathlib.Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's own."""

    def command(self) -> tuple[str, ...]:
        """Answer the command line."""
        return (
            sys.executable,
            *("-m", "kubediffusion_worker"),
            *("--name", self.name),
            *("--listen", self.address),
            *("--registry", str(self.registry)),
            *self.arguments,
        )


@dataclass(frozen=True, slots=True)
class Started:
    """A worker process that has been started."""

    plan: WorkerPlan
    process: subprocess.Popen[bytes]


def plan(
    names: Sequence[str],
    *,
    folder: pathlib.Path,
    model: str,
    arguments: Sequence[str],
    shared: machine.Machine,
) -> tuple[WorkerPlan, ...]:
    """Plan a worker for each name; they share GPUs or cores unless the user says otherwise.

    Args:
        names: Free names.
        folder: The registry, which holds sockets and logs too.
        model: What to load.
        arguments: Further flags of the worker.
        shared: The machine that they will run on.

    Raises:
        kubediffusion.errors.ConfigError: There are fewer GPUs than workers.
    """
    folder = folder.absolute()
    device, threads = flag_value(arguments, "--device"), flag_value(arguments, "--threads")
    config = _config.OmniDiffusionConfig(
        num_gpus=len(names), device=device or "auto", threads=0 if threads else None
    )
    return tuple(
        WorkerPlan(
            name=name,
            address=socket_address(folder, name),
            arguments=(
                *("--model", model),
                *(() if threads else command.thread_flags(config, share)),
                *arguments,
            ),
            environment=share,
            registry=folder,
            log=folder / f"{name}.log",
        )
        for name, share in zip(names, command.shares(config, shared), strict=True)
    )


def free_names(taken: Container[str], number: int, prefix: str) -> tuple[str, ...]:
    """Choose names for new workers: the lowest numbers that nobody has."""
    return tuple(_free_names(taken, number, prefix))


def _free_names(taken: Container[str], number: int, prefix: str) -> Iterator[str]:
    candidate = 0
    while number:
        candidate += 1
        name = f"{prefix}-{candidate}"
        if name not in taken:
            number -= 1
            yield name


def socket_address(folder: pathlib.Path, name: str) -> str:
    """Choose a Unix socket in a folder, or elsewhere if that path is too long for one."""
    path = folder / f"{name}.sock"
    if len(os.fsencode(path)) > addresses.MAX_UNIX_PATH:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
        path = pathlib.Path(tempfile.gettempdir(), f"kd-{os.getuid()}-{digest}", path.name)
    return f"unix:{path}"


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """Find what the user gave for a flag, in either of its spellings."""
    for word, following in itertools.zip_longest(arguments, arguments[1:]):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None


def start(worker: WorkerPlan, *arguments: str, pass_fds: Sequence[int] = ()) -> Started:
    """Start a worker in a session of its own, where no Ctrl-C and no hang-up reaches it.

    Args:
        worker: What to start.
        arguments: Flags of this one process.
        pass_fds: File descriptors that the worker gets under the same numbers.
    """
    for folder in (worker.registry, *_socket_folder(worker.address)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with worker.log.open("wb") as log:
        process = subprocess.Popen(
            [*worker.command(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **worker.environment},
            start_new_session=True,
            pass_fds=pass_fds,
        )
    return Started(worker, process)


def _socket_folder(address: str) -> tuple[pathlib.Path, ...]:
    path = addresses.parse(address).path
    return (pathlib.Path(path).parent,) if path else ()


def check_running(started: Started) -> None:
    """Return if the process still runs.

    Raises:
        kubediffusion_wire.errors.InvalidRequestError: It has refused its flags.
        kubediffusion_wire.errors.WorkerFailedError: It has ended otherwise.
    """
    code = started.process.poll()
    if code is None:
        return
    text = obituary(started.plan, code)
    raise errors.InvalidRequestError(text) if code == 2 else errors.WorkerFailedError(text)


def obituary(worker: WorkerPlan, code: int) -> str:
    """Say how a process ended, and what it said last.

    Args:
        worker: Whose process it was.
        code: Of its exit, or the negative number of the signal that ended it.
    """
    if code < 0:
        return f"worker {worker.name!r} was ended by {signal.Signals(-code).name}"
    if code == 0:
        return f"worker {worker.name!r} has ended"
    return (
        f"worker {worker.name!r} ended with code {code}: {last_words(worker.log)}"
        f" (log: {worker.log})"
    )


def last_words(log: pathlib.Path) -> str:
    """Find out from its log why a process ended."""
    return reason_in(log.read_text(errors="replace"))


def reason_in(log: str) -> str:
    """Find the line that says why a worker ended: the last one that is no record in JSON."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith("{")]
    return (plain or lines or ["it said nothing"])[-1].removeprefix("kubediffusion-worker: ")

"""One request as the journal has it, and what can be written about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True, kw_only=True)
class Entry:
    """One request as the journal has it."""

    request_id: str
    digest: str
    """sha256 of the specification, hexadecimal."""
    spec: bytes | None
    """The serialized specification; None where it is not known, or no longer needed."""
    priority: int = 0
    deadline: float | None = None
    """Unix time."""
    min_exactness: int = 0
    submitted: float = 0.0
    """Unix time."""
    attempt: int = 1
    strikes: int = 0
    worker: str = ""
    incarnation: str = ""
    """Of the worker it was last handed to; empty while it waits for one."""
    is_accepted: bool = False
    is_cancelling: bool = False
    ending: str | None = None
    """"succeeded", "failed", "cancelled"; None while it has not ended."""
    ended: float | None = None
    """Unix time."""
    error: bytes | None = None
    """A serialized `Error`, of one that failed."""
    result: bytes | None = None
    """A serialized `Result`, of one that succeeded."""
    is_paused: bool = False
    deaths: str = "[]"
    """The evidence for the strikes: a list of lists, as JSON."""


class Added(NamedTuple):
    """A request was taken."""

    entry: Entry


class Claimed(NamedTuple):
    """The content of a request that was known by its id alone."""

    request_id: str
    digest: str
    spec: bytes


class Waiting(NamedTuple):
    """No worker has the request any more."""

    request_id: str
    attempt: int
    strikes: int
    deaths: str = "[]"


class Placed(NamedTuple):
    """A worker is about to get the request."""

    request_id: str
    worker: str
    incarnation: str
    attempt: int


class Accepted(NamedTuple):
    """A worker has the request."""

    request_id: str
    worker: str
    incarnation: str


class Cancelling(NamedTuple):
    """The user wants no result."""

    request_id: str


class Paused(NamedTuple):
    """Whether the request is to rest."""

    request_id: str
    is_paused: bool


class Checkpoint(NamedTuple):
    """A checkpoint that is kept in a file."""

    request_id: str
    sha256: str
    step: int
    size: int
    fingerprint: str
    """Of the run that it was taken from."""
    format: int
    """Of its bytes."""
    home: str
    """Fingerprint of the worker that took it."""
    worker: str
    """Name of that worker."""


class CheckpointDropped(NamedTuple):
    """A checkpoint is kept no longer."""

    request_id: str
    sha256: str


class Ended(NamedTuple):
    """The outcome."""

    request_id: str
    ending: str
    ended: float
    error: bytes | None = None
    result: bytes | None = None
    result_size: int = 0


Change = (
    Added
    | Claimed
    | Waiting
    | Placed
    | Accepted
    | Cancelling
    | Paused
    | Checkpoint
    | CheckpointDropped
    | Ended
)

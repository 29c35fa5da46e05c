"""Checkpoints that engines bring: taken in piece by piece, kept for a while to submit with."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import identity, refusals, saving

Requests = AsyncIterator[worker_pb2.ImportCheckpointRequest]

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportLimits:
    """Bounds of checkpoints that have not been submitted with yet."""

    max_size: int = 2_000_000_000
    """Bytes of one."""
    max_bytes: int = 4_000_000_000
    """Bytes of all, those on their way included."""
    max_items: int = 32
    """Of all, those on their way included."""
    keep_seconds: float = 60.0
    """For which one is kept that nobody submits with."""
    idle_seconds: float = 30.0
    """Without a message after which a stream is given up."""


class Imports:
    """What was brought, by whom and for what."""

    def __init__(self, limits: ImportLimits) -> None:
        self.limits = limits
        self._kept: dict[tuple[identity.GenerationKey, str], tuple[saving.Saved, float]] = {}
        self._reserved: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._kept) + len(self._reserved)

    @property
    def bytes(self) -> int:
        """Bytes of all, those on their way included."""
        kept = sum(saved.info.size for saved, _ in self._kept.values())
        return kept + sum(self._reserved.values())

    def reserve(self, size: int) -> int:
        """Make room for one; return what to `release` it by.

        Raises:
            MessageTooLargeError: It is too large for this worker.
            RetentionFullError: There are too many.
        """
        if size > self.limits.max_size:
            raise errors.MessageTooLargeError(
                f"a checkpoint must have at most {self.limits.max_size} bytes; found {size}"
            )
        if len(self) >= self.limits.max_items or self.bytes + size > self.limits.max_bytes:
            raise refusals.no_room_for_checkpoint(size)
        ticket = max(self._reserved, default=0) + 1
        self._reserved[ticket] = size
        return ticket

    def release(self, ticket: int) -> None:
        """Give back room that was made."""
        del self._reserved[ticket]

    def keep(self, key: identity.GenerationKey, saved: saving.Saved, now: float) -> None:
        """Keep what has come, for the request that it was brought for."""
        self._kept[key, saved.info.sha256] = saved, now

    def get(self, key: identity.GenerationKey, reference: str, now: float) -> saving.Saved:
        """Return what was brought for a request.

        Raises:
            CheckpointNotFoundError: Nothing was, or too long ago.
        """
        self.expire(now)
        found = self._kept.get((key, reference))
        if found is None:
            raise refusals.unknown_reference()
        return found[0]

    def forget(self, key: identity.GenerationKey, reference: str) -> None:
        """Let go of what was submitted with."""
        self._kept.pop((key, reference), None)

    def expire(self, now: float) -> None:
        """Let go of what nobody submits with."""
        oldest = now - self.limits.keep_seconds
        for name, (_, kept_at) in list(self._kept.items()):
            if kept_at < oldest:
                del self._kept[name]


def check_header(info: worker_pb2.CheckpointInfo) -> None:
    """Refuse a header that describes no checkpoint.

    Raises:
        InvalidRequestError: It does not.
    """
    if info.size <= 0:
        raise errors.InvalidRequestError.at("header.size", f"must be positive; found {info.size}")
    if not _DIGEST.fullmatch(info.sha256):
        raise errors.InvalidRequestError.at(
            "header.sha256", "must be 64 hexadecimal digits in lower case"
        )


async def first_of(requests: Requests, idle_seconds: float) -> worker_pb2.ImportCheckpointRequest:
    """Return the message that a stream begins with.

    Raises:
        InvalidRequestError: There is none, or it is no header.
    """
    request = await _next(requests, idle_seconds)
    if request is None or not request.HasField("header") or request.data:
        raise errors.InvalidRequestError.at(
            "header", "must come in the first message, with caller and request_id, without data"
        )
    check_header(request.header)
    return request


async def data_of(
    requests: Requests,
    info: worker_pb2.CheckpointInfo,
    idle_seconds: float,
) -> bytes:
    """Return the bytes that follow a header.

    Raises:
        InvalidRequestError: Something else follows.
        InvalidCheckpointError: They are not those of the header.
    """
    data = bytearray()  # It grows with what has come, not with what was announced.
    while (request := await _next(requests, idle_seconds)) is not None:
        if request.HasField("header") or request.HasField("caller") or request.request_id:
            raise errors.InvalidRequestError.at(
                "data", "must be all that the messages after the first one hold"
            )
        data += request.data
        if len(data) > info.size:
            raise errors.InvalidCheckpointError(f"wanted {info.size} bytes; found more")
    if len(data) != info.size:
        raise errors.InvalidCheckpointError(f"wanted {info.size} bytes; found {len(data)}")
    whole = bytes(data)
    found = (await asyncio.to_thread(hashlib.sha256, whole)).hexdigest()
    if found != info.sha256:
        raise errors.InvalidCheckpointError(f"wanted sha256 {info.sha256}; found {found}")
    return whole


async def _next(
    requests: Requests, idle_seconds: float
) -> worker_pb2.ImportCheckpointRequest | None:
    try:
        async with asyncio.timeout(idle_seconds):
            return await anext(requests, None)
    except TimeoutError as error:
        raise errors.InvalidRequestError.at(
            "data", f"must keep coming; nothing came for {idle_seconds:.0f} s"
        ) from error

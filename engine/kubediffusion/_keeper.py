"""Fetching checkpoints from workers: the newest of each generation, a few at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kubediffusion import _changes, _stimuli, _tracker, errors

if TYPE_CHECKING:
    from kubediffusion import _checkpoints, _record, _session
    from kubediffusion_proto.v1 import worker_pb2

logger = logging.getLogger(__name__)

MAX_TRANSFERS = 4
"""Fetches at a time, in the background; those of workers that have to leave come on top."""

MAX_TRIES = 3
"""Of a transfer that arrives damaged."""

ASK_SECONDS = 0.2
"""Between two tries while a worker that has to leave is out of reach."""


class Host(Protocol):
    """What the keeper needs of the engine's core."""

    @property
    def engine_id(self) -> str:
        """Whose generations are meant."""
        ...

    def session_at(self, seat: _stimuli.Seat) -> _session.Session | None:
        """Return the session with a worker in a certain life."""
        ...

    def feed(self, record: _record.Record, stimulus: _stimuli.Stimulus) -> None:
        """Tell a tracker what happened and carry out what it says."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, is_long: bool = False) -> None:
        """Run something beside everything else."""
        ...


class Wanted(NamedTuple):
    """A checkpoint that a worker has announced."""

    seat: _stimuli.Seat
    size: int
    sha256: str


class Keeper:
    """Gets what workers save to the shelf.

    Args:
        host: The engine's core.
        shelf: Keeps it.
    """

    def __init__(self, host: Host, shelf: _checkpoints.Shelf) -> None:
        self.shelf = shelf
        self._host = host
        self._slots = asyncio.Semaphore(MAX_TRANSFERS)
        self._wanted: dict[str, Wanted] = {}
        self._busy: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._failing: set[str] = set()

    def announce(self, record: _record.Record, wanted: Wanted) -> None:
        """Take note of a newer checkpoint; it is fetched when there is a slot."""
        if not self.shelf.policy.fetch or _is_kept(record, wanted.sha256):
            return
        try:
            self.shelf.check_size(wanted.size)
        except errors.RetentionFullError as error:
            self._note_failure(record, error)
            return
        self._wanted[record.request_id] = wanted
        if record.request_id not in self._busy:
            self._busy.add(record.request_id)
            self._host.spawn(self._follow(record), is_long=True)

    def salvage(self, record: _record.Record, seat: _stimuli.Seat, sha256: str) -> None:
        """Get what a worker hands over, and say when that is done or in vain."""
        self._host.spawn(self._salvage(record, seat, sha256), is_long=True)

    async def obtain(
        self, record: _record.Record, seat: _stimuli.Seat, sha256: str = ""
    ) -> _changes.Checkpoint:
        """Fetch the newest checkpoint of a generation, unless the wanted one is here.

        Raises:
            WorkerGoneError: The worker is not connected.
            RetentionFullError: There is no room for it.
            KubediffusionError: The worker cannot give it.
        """
        lock = self._locks.setdefault(record.request_id, asyncio.Lock())
        async with lock:
            for checkpoint in record.checkpoints:
                if checkpoint.sha256 == sha256:
                    return checkpoint
            return await self._fetch(record, seat)

    def forget(self, record: _record.Record) -> None:
        """Keep nothing of a request that has ended."""
        self._wanted.pop(record.request_id, None)
        self._failing.discard(record.request_id)
        self._locks.pop(record.request_id, None)
        self.shelf.drop_all(record)

    async def _follow(self, record: _record.Record) -> None:
        """Fetch what is announced until nothing newer has been."""
        request_id = record.request_id
        try:
            while request_id in self._wanted:
                async with self._slots:
                    # Meanwhile a newer one may have been announced.
                    wanted = self._wanted.pop(request_id, None)
                    if wanted is not None and record.tracker.seat == wanted.seat:
                        await self._keep(record, wanted)
        finally:
            self._busy.discard(request_id)

    async def _keep(self, record: _record.Record, wanted: Wanted) -> None:
        try:
            await self.obtain(record, wanted.seat, wanted.sha256)
        except errors.RetentionFullError as error:
            self._note_failure(record, error)
        except errors.KubediffusionError as error:
            # It has ended, moved, or is out of reach; the next one is as good.
            logger.debug("checkpoint was not fetched", extra={"cause": error.message})

    async def _salvage(self, record: _record.Record, seat: _stimuli.Seat, sha256: str) -> None:
        self._wanted.pop(record.request_id, None)
        damaged = 0
        while _is_salvaging(record, seat):
            try:
                await self.obtain(record, seat, sha256)
                break
            except errors.CorruptDataError as error:
                damaged += 1
                if damaged >= MAX_TRIES:
                    self._note_failure(record, error)
                    break
            except errors.RetryElsewhereError:
                pass  # Until the worker is back, or given up.
            except _NOTHING_THERE:
                break
            except errors.KubediffusionError as error:
                self._note_failure(record, error)
                break
            await asyncio.sleep(ASK_SECONDS)
        self._host.feed(record, _stimuli.Salvaged(seat))

    async def _fetch(self, record: _record.Record, seat: _stimuli.Seat) -> _changes.Checkpoint:
        session = self._host.session_at(seat)
        if session is None:
            raise errors.WorkerGoneError(f"worker {seat.worker!r} is not connected")
        engine_id = self._host.engine_id
        fetched = await session.link.fetch_checkpoint(engine_id, record.request_id)
        home = session.worker.fingerprint
        checkpoint = _describe(record.request_id, fetched.info, home, seat.worker)
        await self.shelf.put(record, checkpoint, fetched.data)
        self._failing.discard(record.request_id)
        return checkpoint

    def _note_failure(self, record: _record.Record, error: errors.KubediffusionError) -> None:
        """Say once that a generation goes on without newer checkpoints."""
        if record.request_id not in self._failing and not record.is_ended:
            self._failing.add(record.request_id)
            logger.warning(
                "checkpoint is not kept",
                extra={"generation": record.request_id, "cause": error.message},
            )
            record.note("checkpoint_lost", record.worker, reason=error.message)


_NOTHING_THERE = (
    errors.CheckpointNotFoundError,
    errors.GenerationNotFoundError,
    errors.NotImplementedByWorkerError,
)


def _describe(
    request_id: str, info: worker_pb2.CheckpointInfo, home: str, worker: str
) -> _changes.Checkpoint:
    return _changes.Checkpoint(
        request_id=request_id,
        sha256=info.sha256,
        step=info.step,
        size=info.size,
        fingerprint=info.fingerprint,
        format=info.format,
        home=home,
        worker=worker,
    )


def _is_kept(record: _record.Record, sha256: str) -> bool:
    return any(checkpoint.sha256 == sha256 for checkpoint in record.checkpoints)


def _is_salvaging(record: _record.Record, seat: _stimuli.Seat) -> bool:
    return record.tracker.phase is _tracker.Phase.SALVAGING and record.tracker.seat == seat

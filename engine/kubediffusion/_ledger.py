"""The requests of an engine: in memory while they are of interest, and in the journal."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from kubediffusion import _changes, _instructions, _record, _stimuli, errors
from kubediffusion_wire import errors as wire_errors

if TYPE_CHECKING:
    from kubediffusion import _journal, _settings
    from kubediffusion_proto.v1 import worker_pb2

logger = logging.getLogger(__name__)

MAX_FINISHED = 1024
"""Requests that stay in memory after they have ended and been given out."""

MAX_DETAILED = 512
"""Requests in memory from which on those that have ended keep no single step."""

MAX_FINISHED_IN_MEMORY = 4096
"""Outcomes that a journal in memory remembers."""

REWRITE_SECONDS = 5.0
"""Between two attempts to write outcomes to a disk that was full."""


class Ledger:
    """Records by id, with the journal behind them.

    Args:
        journal: Is closed by whoever made it.
        settings: Bounds.
    """

    def __init__(self, journal: _journal.Journal, settings: _settings.EngineSettings) -> None:
        self.journal = journal
        self._settings = settings
        self._records: dict[str, _record.Record] = {}
        self._finished: collections.OrderedDict[str, _record.Record] = collections.OrderedDict()
        self._unclaimed = 0
        self._unfinished = 0
        self._bytes = 0
        self._is_failing = False

    def __len__(self) -> int:
        return len(self._records)

    @property
    def unfinished_count(self) -> int:
        """Requests that have not ended."""
        return self._unfinished

    def recall(self) -> list[_record.Record]:
        """Read what the journal has of unfinished requests."""
        records = [self._of_entry(entry) for entry in self.journal.unfinished()]
        for record in records:
            self._keep(record)
        return records

    def get(self, request_id: str) -> _record.Record | None:
        """Return a request that is in memory."""
        return self._records.get(request_id)

    def find(self, request_id: str) -> _record.Record | None:
        """Return a request from memory, or one that has ended from the journal."""
        record = self._records.get(request_id)
        if record is not None:
            return record
        entry = self.journal.read(request_id)
        if entry is None:
            return None
        record = self._of_entry(entry)
        self._keep(record)
        return record

    def has_ended(self, request_id: str) -> bool:
        """Tell whether a request has ended, without bringing it into memory."""
        record = self._records.get(request_id)
        if record is not None:
            return record.is_ended
        entry = self.journal.read(request_id)
        return entry is not None and entry.ending is not None

    def unfinished(self) -> Iterator[_record.Record]:
        """Return all requests that have not ended."""
        return iter([record for record in self._records.values() if not record.is_ended])

    def all(self) -> list[_record.Record]:
        """Return all requests in memory."""
        return list(self._records.values())

    def take(
        self, orders: Sequence[_record.Order]
    ) -> tuple[list[_record.Record], list[_record.Record]]:
        """Take new requests, and recognize known ones.

        Returns:
            A record for each order, and those among them that are new.

        Raises:
            RequestConflictError: An id stands for another request.
            QueueFullError: There are too many, or too large ones.
            JournalError: They cannot be written down; none of them was taken.
        """
        batch: dict[str, _record.Record] = {}
        fresh: list[_record.Record] = []
        claimed: list[_record.Record] = []
        now = time.time()
        for order in orders:
            record = batch.get(order.request_id) or self.find(order.request_id)
            if record is None:
                record = _record.Record.of_order(
                    order, now=now, max_attempts=self._settings.max_attempts
                )
                fresh.append(record)
            else:
                self._check_same(record, order)
                if record.spec is None and not record.is_ended:
                    claimed.append(record)
                    record.claim(order)
            batch[order.request_id] = record
        self._check_room(fresh)
        self.journal.write([_changes.Added(record.entry()) for record in fresh])
        self._write_claims(claimed)
        for record in fresh:
            self._keep(record)
        return [batch[order.request_id] for order in orders], fresh

    def adopt(self, generation: worker_pb2.Generation, seat: _stimuli.Seat) -> _record.Record:
        """Take a generation that a worker has and nobody here knows."""
        record = _record.Record.of_generation(
            generation, seat, max_attempts=self._settings.max_attempts
        )
        self._keep(record)
        self.write(record, _changes.Added(record.entry()))
        return record

    def write(self, record: _record.Record, change: _changes.Change) -> bool:
        """Write a change down; False where the storage fails, which is logged once."""
        try:
            self.journal.write([change])
        except errors.JournalError as error:
            if not self._is_failing:
                logger.error(
                    "journal cannot be written; work goes on without it",
                    extra={"generation": record.request_id, "cause": error.message},
                )
            self._is_failing = True
            return False
        self._is_failing = False
        return True

    def end(self, record: _record.Record, instruction: _instructions.WriteEnded) -> bool:
        """Write an outcome down, later again where the storage fails now."""
        self._unfinished -= 1
        self._bytes -= record.size
        self._unclaimed += 1
        change = _ended(record, instruction)
        is_written = self.write(record, change)
        if not is_written:
            self._write_later(record, change)
        return is_written

    def give_out(self, record: _record.Record) -> bool:
        """Take note that somebody was given the outcome; False where that was so before."""
        if record.is_delivered:
            return False
        record.is_delivered = True
        if record.is_published:
            self._unclaimed -= 1
            self._retire(record)
        return True

    def publish(self, record: _record.Record) -> None:
        """Take note that an outcome was published."""
        if record.is_delivered:
            self._unclaimed -= 1
        if len(self._records) > MAX_DETAILED:
            record.log.compact()
        if record.is_delivered or self.journal.is_durable:
            self._retire(record)

    def prune(self) -> list[str]:
        """Forget old outcomes; return the ids whose results can go."""
        settings = self._settings
        is_durable = self.journal.is_durable
        try:
            return self.journal.prune(
                ended_before=time.time() - settings.retention_seconds if is_durable else 0.0,
                max_count=2**62 if is_durable else MAX_FINISHED_IN_MEMORY,
                max_bytes=settings.retention_bytes if is_durable else 2**62,
            )
        except errors.JournalError as error:
            logger.warning("journal cannot be pruned", extra={"cause": error.message})
            return []

    def retired(self) -> Iterable[_record.Record]:
        """Drop finished requests beyond the bound from memory; return them."""
        while len(self._finished) > MAX_FINISHED:
            request_id, record = self._finished.popitem(last=False)
            self._records.pop(request_id, None)
            if not record.is_delivered:
                self._unclaimed -= 1
            yield record

    def _of_entry(self, entry: _changes.Entry) -> _record.Record:
        return _record.Record.of_entry(entry, max_attempts=self._settings.max_attempts)

    def _keep(self, record: _record.Record) -> None:
        self._records[record.request_id] = record
        if not record.demand.model:
            record.demand = record.demand._replace(model=self._settings.model)
        if record.is_ended:
            record.is_delivered = True  # As far as the bounds go: it is in the journal.
            self._retire(record)
        else:
            self._unfinished += 1
            self._bytes += record.size

    def _retire(self, record: _record.Record) -> None:
        self._finished[record.request_id] = record
        self._finished.move_to_end(record.request_id)

    def _check_same(self, record: _record.Record, order: _record.Order) -> None:
        if record.digest and record.digest != order.digest:
            raise errors.RequestConflictError(
                f"request id {order.request_id!r} is in use for another request; choose a new id"
            )

    def _check_room(self, fresh: Sequence[_record.Record]) -> None:
        settings = self._settings
        # Without a file, what nobody has asked for yet takes room too.
        unclaimed = 0 if self.journal.is_durable else self._unclaimed
        count = self._unfinished + unclaimed + len(fresh)
        if count > settings.max_pending:
            raise errors.QueueFullError(
                f"{self._unfinished} generations are unfinished and {unclaimed} results not "
                f"taken; with {len(fresh)} more the limit max_pending={settings.max_pending} "
                "would be passed; wait for some of them",
                retry_delay=1.0,
            )
        size = self._bytes + sum(record.size for record in fresh)
        if fresh and size > settings.max_pending_bytes:
            raise errors.QueueFullError(
                f"the unfinished requests would take {size} bytes; the limit is "
                f"max_pending_bytes={settings.max_pending_bytes}; wait for some of them",
                retry_delay=1.0,
            )

    def _write_claims(self, claimed: Sequence[_record.Record]) -> None:
        for record in claimed:
            entry = record.entry()
            self._bytes += record.size
            if entry.spec is not None:
                change = _changes.Claimed(record.request_id, record.digest, entry.spec)
                self.write(record, change)

    def _write_later(self, record: _record.Record, change: _changes.Change) -> None:
        def write_again() -> None:
            if not self.write(record, change):
                self._write_later(record, change)

        asyncio.get_running_loop().call_later(REWRITE_SECONDS, write_again)


def _ended(record: _record.Record, instruction: _instructions.WriteEnded) -> _changes.Ended:
    error = instruction.error
    is_success = instruction.ending is _stimuli.Ending.SUCCEEDED
    header = record.header if is_success else None
    return _changes.Ended(
        record.request_id,
        instruction.ending.value,
        time.time(),
        error=None if error is None else wire_errors.to_message(error).SerializeToString(),
        result=None if header is None else header.SerializeToString(),
        result_size=0 if header is None else header.size,
    )

"""What users ask of an engine, answered on its event loop."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kubediffusion import _events, _interventions, _lora, _stimuli, _workers, errors

if TYPE_CHECKING:
    from kubediffusion import _core, _delivery, _ledger, _output, _record


class Desk:
    """The front of a core.

    Args:
        core: Does the work.
        ledger: The requests.
        delivery: The results.
    """

    def __init__(
        self, core: _core.Core, ledger: _ledger.Ledger, delivery: _delivery.Delivery
    ) -> None:
        self._core = core
        self._ledger = ledger
        self._delivery = delivery
        self._interventions = _interventions.Interventions(core)

    async def submit(self, orders: Sequence[_record.Order]) -> list[_record.Record]:
        """Take requests; they are in the journal when this returns.

        Raises:
            RequestConflictError: An id stands for another request.
            QueueFullError: There are too many unfinished ones.
            JournalError: They cannot be written down; none of them was taken.
        """
        self._core.check_running()
        return self._core.take(orders)

    async def find(self, request_id: str) -> _record.Record:
        """Return a request of this or an earlier start.

        Raises:
            GenerationNotFoundError: Neither the journal nor a worker knows it.
        """
        self._core.check_running()
        record = self._ledger.find(request_id)
        if record is None:
            await self._core.settled()
            record = self._ledger.find(request_id)
        if record is None:
            raise errors.GenerationNotFoundError(
                f"neither this engine nor a worker knows the generation {request_id!r}; submit it"
            )
        return record

    async def known(self) -> list[_record.Record]:
        """Return all requests in memory, those of earlier starts among them."""
        self._core.check_running()
        await self._core.settled()
        return self._ledger.all()

    async def cancel(self, records: Sequence[_record.Record]) -> None:
        """Ask for cancels; the outcome of each tells what came of it."""
        self._core.check_running()
        for record in records:
            self._core.feed(record, _stimuli.CancelAsked())

    async def pause(self, record: _record.Record) -> None:
        """Have a generation parked at its next step.

        Raises:
            NotResumableError: It has ended, or its worker cannot park it.
        """
        await self._interventions.pause(record)

    async def unpause(self, record: _record.Record) -> None:
        """Let a parked generation go on.

        Raises:
            NotResumableError: It has ended.
        """
        await self._interventions.unpause(record)

    async def checkpoint(self, record: _record.Record) -> _interventions.CheckpointInfo:
        """Have a checkpoint taken, and wait for it.

        Raises:
            NotResumableError: It has ended, or cannot be saved in its state.
        """
        return await self._interventions.checkpoint(record)

    async def drain(self, worker: str, policy: str, budget: float | None) -> str:
        """Let a worker take no new work and empty itself; return its state.

        Raises:
            InvalidRequestError: There is no such worker or policy.
        """
        self._core.check_running()
        return await self._interventions.drain(worker, policy, budget)

    async def undrain(self, worker: str) -> str:
        """Let a drained worker take work again; return its state.

        Raises:
            InvalidRequestError: There is no such worker.
        """
        self._core.check_running()
        return await self._interventions.undrain(worker)

    async def output(self, record: _record.Record) -> _output.OmniRequestOutput:
        """Wait for the end of a request and return its outcome."""
        while not record.is_published:
            self._core.check_running()
            await record.changed()
        output = await self._delivery.output(record)
        self._core.give_out(record)
        return output

    async def outputs(
        self, records: Sequence[_record.Record], timeout: float | None
    ) -> list[_output.OmniRequestOutput]:
        """Wait for the ends of several requests and return their outcomes, in order.

        Raises:
            ResultTimeoutError: Not all of them ended in time; names the others.
        """
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.gather(*(self.output(record) for record in records))
        except TimeoutError as error:
            late = [record.request_id for record in records if not record.is_published]
            shown = ", ".join(late[:5]) + (", …" if len(late) > 5 else "")
            raise errors.ResultTimeoutError(
                f"{len(late)} of {len(records)} generations had not ended after {timeout} s; "
                f"they go on, and engine.generation(id) finds them: {shown}",
                late,
            ) from error

    async def next_event(
        self, record: _record.Record, after: int
    ) -> tuple[_events.GenerationEvent, int]:
        """Return the first event after a number, and its own number."""
        while (note := record.log.after(after)) is None:
            self._core.check_running()
            await record.changed()
        event = _events.from_note(record.request_id, record.tracker.attempt, note)
        if event.is_terminal:
            event = await self._with_outcome(record, event)
        return event, note.number

    async def workers(self) -> list[_workers.WorkerInfo]:
        """Describe the workers."""
        self._core.check_running()
        return [_workers.describe(session) for session in self._core.sessions]

    async def load_adapter(self, name: str, source: str, weight_name: str) -> None:
        """Load an adapter on every worker, also on those that come later.

        Raises:
            KubediffusionError: The first worker that could not; others may have.
        """
        await self._core.load_adapter(name, _lora.Adapter(source, weight_name))

    async def unload_adapter(self, name: str) -> bool:
        """Remove an adapter from every worker; tell whether any had it."""
        return await self._core.unload_adapter(name)

    async def _with_outcome(
        self, record: _record.Record, event: _events.GenerationEvent
    ) -> _events.GenerationEvent:
        output = await self.output(record)
        if output.error is not None:
            return dataclasses.replace(event, error=output.error)
        return dataclasses.replace(event, output=output)

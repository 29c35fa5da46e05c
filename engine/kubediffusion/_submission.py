"""Handing a request to a worker, with the checkpoint that it goes on from."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from kubediffusion import _stimuli, _tracker
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

if TYPE_CHECKING:
    from kubediffusion import _changes, _checkpoints, _record, _session

logger = logging.getLogger(__name__)


class Host(Protocol):
    """What a submission needs of the engine's core."""

    @property
    def caller(self) -> worker_pb2.Caller:
        """Who this engine is."""
        ...

    def feed(self, record: _record.Record, stimulus: _stimuli.Stimulus) -> None:
        """Tell a tracker what happened and carry out what it says."""
        ...

    def take_listed(
        self, record: _record.Record, seat: _stimuli.Seat, generation: worker_pb2.Generation
    ) -> None:
        """Take note of how a worker describes a generation."""
        ...

    def pump(self) -> None:
        """Look for workers for the requests that wait."""
        ...

    def fence(self, error: errors.StaleEpochError) -> None:
        """Stop for good."""
        ...


class Submission:
    """One attempt to hand a request to a worker.

    The newest checkpoint goes first, then an older one, and where the worker takes none of
    them the request begins anew.

    Args:
        host: The engine's core.
        shelf: Has the checkpoints.
        session: With the worker.
        record: The request.
        seat: The worker's.
        attempt: Its number.
    """

    def __init__(
        self,
        host: Host,
        shelf: _checkpoints.Shelf,
        session: _session.Session,
        record: _record.Record,
        seat: _stimuli.Seat,
        attempt: int,
    ) -> None:
        self._host = host
        self._shelf = shelf
        self._session = session
        self._record = record
        self._seat = seat
        self._attempt = attempt

    async def run(self) -> None:
        """Do it, and tell the tracker what came of it."""
        record, seat = self._record, self._seat
        try:
            response = await self._submit()
        except errors.StaleEpochError as error:
            self._host.fence(error)
        except errors.WorkerFailedError as error:
            self._refuse(error)
        except errors.RetryElsewhereError:
            self._host.feed(record, _stimuli.AnswerLost(seat))
        except errors.KubediffusionError as error:
            self._refuse(error)
        else:
            if response is not None:
                self._accept(response)
        finally:
            self._session.in_flight -= 1
            self._host.pump()

    async def _submit(self) -> worker_pb2.SubmitGenerationResponse | None:
        """Return the answer; None where the request has moved on in the meantime."""
        link = self._session.link
        tried: set[str] = set()
        while (checkpoint := self._next_checkpoint(tried)) is not None:
            tried.add(checkpoint.sha256)
            try:
                reference = await self._import(checkpoint)
                if not self._is_current():
                    return None
                self._record.resuming = checkpoint
                return await link.submit_generation(self._request(reference))
            except errors.EvictedError as error:
                self._note_refusal(checkpoint, error)
                self._shelf.drop(self._record, checkpoint)
            except _UNUSABLE_HERE as error:
                self._note_refusal(checkpoint, error)
            if not self._is_current():
                return None
        self._record.resuming = None
        return await link.submit_generation(self._request(""))

    def _next_checkpoint(self, tried: set[str]) -> _changes.Checkpoint | None:
        return next((each for each in self._record.checkpoints if each.sha256 not in tried), None)

    async def _import(self, checkpoint: _changes.Checkpoint) -> str:
        info = worker_pb2.CheckpointInfo(
            step=checkpoint.step,
            size=checkpoint.size,
            sha256=checkpoint.sha256,
            fingerprint=checkpoint.fingerprint,
            format=checkpoint.format,
        )
        data = await self._shelf.load(checkpoint)
        return await self._session.link.import_checkpoint(
            self._host.caller, self._record.request_id, info, data
        )

    def _is_current(self) -> bool:
        tracker = self._record.tracker
        is_here = tracker.phase is _tracker.Phase.SUBMITTING and tracker.seat == self._seat
        return is_here and tracker.attempt == self._attempt

    def _accept(self, response: worker_pb2.SubmitGenerationResponse) -> None:
        incarnation = response.incarnation or self._seat.incarnation
        taken = _stimuli.Seat(self._seat.worker, incarnation)
        self._host.feed(self._record, _stimuli.Accepted(taken))
        if not response.is_created:
            # Its events may have been told long ago.
            self._host.take_listed(self._record, taken, response.generation)

    def _refuse(self, error: errors.KubediffusionError) -> None:
        session = self._session
        session.unreported = max(0, session.unreported - 1)
        if not isinstance(error, errors.FixRequestError | errors.PoisonedError):
            pause = session.close_for(error.retry_delay)
            asyncio.get_running_loop().call_later(pause, self._host.pump)
        self._host.feed(self._record, _stimuli.Refused(self._seat, error))

    def _request(self, reference: str) -> worker_pb2.SubmitGenerationRequest:
        record = self._record
        request = worker_pb2.SubmitGenerationRequest(
            caller=self._host.caller,
            request_id=record.request_id,
            spec=record.spec,
            attempt=self._attempt,
            priority=record.priority,
            min_exactness=record.min_exactness,
            checkpoint_reference=reference,
        )
        if record.deadline is not None:
            request.deadline.FromNanoseconds(round(record.deadline * 1e9))
        return request

    def _note_refusal(
        self, checkpoint: _changes.Checkpoint, error: errors.KubediffusionError
    ) -> None:
        logger.warning(
            "worker does not go on from a checkpoint",
            extra={
                "generation": checkpoint.request_id,
                "worker": self._seat.worker,
                "step": checkpoint.step,
                "cause": error.message,
            },
        )


_UNUSABLE_HERE = (
    errors.CheckpointNotFoundError,
    errors.CorruptDataError,
    errors.InvalidCheckpointError,
    errors.MessageTooLargeError,
    errors.NotImplementedByWorkerError,
    errors.NotResumableError,
)
"""Errors that say that this worker cannot go on from a checkpoint; another one may."""

"""Handles on generations: what `submit` returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from kubediffusion import _events, errors

if TYPE_CHECKING:
    from kubediffusion import _assembly, _interventions, _output, _record


class _Handle:
    """What both kinds of handles have; its reads never wait."""

    def __init__(self, record: _record.Record, assembly: _assembly.Assembly) -> None:
        self._record = record
        self._assembly = assembly
        self._output: _output.OmniRequestOutput | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.request_id!r}, {self.state.value})"

    @property
    def request_id(self) -> str:
        """Finds this generation again, also after a restart of the engine."""
        return self._record.request_id

    @property
    def state(self) -> _events.GenerationState:
        """Where it stands, as far as the engine has heard."""
        return self._record.state

    @property
    def progress(self) -> _events.Progress | None:
        """How far it is; None before its first step."""
        return self._record.progress

    @property
    def worker(self) -> str:
        """Name of the worker that has it, or had it last; empty before the first."""
        return self._record.worker

    @property
    def attempt(self) -> int:
        """1 where no worker was lost on the way."""
        return self._record.tracker.attempt

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._record.is_published

    @property
    def error(self) -> errors.KubediffusionError | None:
        """Why it failed; None where it did not, or not yet."""
        return self._record.error

    def _timed_out(self, timeout: float | None) -> errors.ResultTimeoutError:
        return errors.ResultTimeoutError(
            f"generation {self.request_id!r} had not ended after {timeout} s; it goes on",
            [self.request_id],
        )


class Generation(_Handle):
    """A generation, for synchronous code; all methods may be called from any thread."""

    def result(self, timeout: float | None = None) -> _output.OmniRequestOutput:
        """Wait for the end and return the outcome.

        Args:
            timeout: In seconds; None waits without end.

        Raises:
            ResultTimeoutError: It has not ended in time; it goes on.
            KubediffusionError: It failed or was cancelled.
        """
        if self._output is None:
            desk = self._assembly.desk
            try:
                self._output = self._assembly.run(desk.output(self._record), timeout)
            except TimeoutError as error:
                raise self._timed_out(timeout) from error
        self._output.raise_for_error()
        return self._output

    def events(self) -> Iterator[_events.GenerationEvent]:
        """Yield what has happened so far, then what happens, until the end.

        The last event is "succeeded" with an output, or "failed" or "cancelled" with an
        error. To stop early ends nothing but the iteration.
        """
        number = 0
        while True:
            event, number = self._assembly.run(
                self._assembly.desk.next_event(self._record, number)
            )
            yield event
            if event.is_terminal:
                return

    def __iter__(self) -> Iterator[_events.GenerationEvent]:
        return self.events()

    def cancel(self) -> None:
        """Ask for a cancel; the event "cancelled" confirms it.

        A generation whose result is there already is not cancelled.
        """
        self._assembly.run(self._assembly.desk.cancel([self._record]))

    def pause(self) -> None:
        """Park it after the step under way; the event "parked" confirms it.

        Its worker keeps its state and computes something else. Cancelling and checkpoints
        work as ever.

        Raises:
            NotResumableError: It has ended, or cannot be parked.
        """
        self._assembly.run(self._assembly.desk.pause(self._record))

    def resume(self) -> None:
        """Let it go on after `pause`; the event "unpaused" confirms it.

        Raises:
            NotResumableError: It has ended.
        """
        self._assembly.run(self._assembly.desk.unpause(self._record))

    def checkpoint(self) -> _interventions.CheckpointInfo:
        """Take a checkpoint after the step under way, and wait until it is stored.

        One is taken every few seconds anyway; this is for the moment before you do
        something to the worker.

        Raises:
            NotResumableError: It has ended, or cannot be saved in its state.
        """
        return self._assembly.run(self._assembly.desk.checkpoint(self._record))


class AsyncGeneration(_Handle):
    """A generation, for asynchronous code on any event loop."""

    async def result(self, timeout: float | None = None) -> _output.OmniRequestOutput:
        """Wait for the end and return the outcome.

        Args:
            timeout: In seconds; None waits without end.

        Raises:
            ResultTimeoutError: It has not ended in time; it goes on.
            KubediffusionError: It failed or was cancelled.
        """
        if self._output is None:
            desk = self._assembly.desk
            try:
                self._output = await self._assembly.run_async(desk.output(self._record), timeout)
            except TimeoutError as error:
                raise self._timed_out(timeout) from error
        self._output.raise_for_error()
        return self._output

    async def events(self) -> AsyncIterator[_events.GenerationEvent]:
        """Yield what has happened so far, then what happens, until the end.

        The last event is "succeeded" with an output, or "failed" or "cancelled" with an
        error. To stop early ends nothing but the iteration.
        """
        number = 0
        while True:
            event, number = await self._assembly.run_async(
                self._assembly.desk.next_event(self._record, number)
            )
            yield event
            if event.is_terminal:
                return

    def __aiter__(self) -> AsyncIterator[_events.GenerationEvent]:
        return self.events()

    async def cancel(self) -> None:
        """Ask for a cancel; the event "cancelled" confirms it.

        A generation whose result is there already is not cancelled.
        """
        await self._assembly.run_async(self._assembly.desk.cancel([self._record]))

    async def pause(self) -> None:
        """Park it after the step under way; the event "parked" confirms it.

        Its worker keeps its state and computes something else. Cancelling and checkpoints
        work as ever.

        Raises:
            NotResumableError: It has ended, or cannot be parked.
        """
        await self._assembly.run_async(self._assembly.desk.pause(self._record))

    async def resume(self) -> None:
        """Let it go on after `pause`; the event "unpaused" confirms it.

        Raises:
            NotResumableError: It has ended.
        """
        await self._assembly.run_async(self._assembly.desk.unpause(self._record))

    async def checkpoint(self) -> _interventions.CheckpointInfo:
        """Take a checkpoint after the step under way, and wait until it is stored.

        One is taken every few seconds anyway; this is for the moment before you do
        something to the worker.

        Raises:
            NotResumableError: It has ended, or cannot be saved in its state.
        """
        return await self._assembly.run_async(self._assembly.desk.checkpoint(self._record))

"""The state machine of all generations of a worker: stimuli in, instructions out.

    WAITING -> ASSIGNED -> COMPUTING -> ENCODING -> ENDED (succeeded, failed, cancelled,
                                                    handed over) -> released

There is no I/O, clock or randomness in here: the same stimuli always give the same
instructions. A refused stimulus gives a `Refuse` among them. The shape is that of dask's
`worker_state_machine.py`.
"""

import dataclasses
from typing import assert_never

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    estimates,
    fencing,
    generation,
    identity,
    instructions,
    queueing,
    refusals,
    retention,
    ring,
    stimuli,
)
from kubediffusion_worker.generation import Generation, Phase, State


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LifecycleConfig:
    """All bounds of the state machine."""

    line_limits: queueing.LineLimits = dataclasses.field(default_factory=queueing.LineLimits)
    ring_limits: ring.RingLimits = dataclasses.field(default_factory=ring.RingLimits)
    retention_limits: retention.RetentionLimits = dataclasses.field(
        default_factory=retention.RetentionLimits
    )
    fence_limits: fencing.FenceLimits = dataclasses.field(default_factory=fencing.FenceLimits)
    slots: int = 1
    """Runs that the compute thread takes at once."""
    max_encoding: int = 2
    """Outputs that wait for their encoding; no run starts while there are more."""
    orphan_cancel_seconds: float | None = None
    """Seconds without a lease after which the work of an engine is cancelled; None: it is
    finished and kept."""

    def __post_init__(self) -> None:
        """Refuse bounds that would stop everything."""
        if min(self.slots, self.max_encoding) < 1:
            raise ValueError("slots and max_encoding must be positive")


class Lifecycle:
    """Decides what becomes of generations. Read anything, change it by `handle` alone."""

    def __init__(self, config: LifecycleConfig) -> None:
        self.config = config
        self.worker_state: worker_pb2.WorkerState = worker_pb2.WORKER_STATE_STARTING
        self.generations: dict[identity.GenerationKey, Generation] = {}
        self.line = queueing.WaitingLine(config.line_limits)
        self.shelf = retention.Shelf(config.retention_limits)
        self.tombstones = retention.Tombstones(config.retention_limits)
        self.fences = fencing.Fences(config.fence_limits)
        self.estimator = estimates.Estimator()
        self.runs: dict[int, identity.GenerationKey] = {}
        """The runs that hold a slot of the compute thread, given up or not."""
        self.encoding: dict[int, identity.GenerationKey] = {}
        """The runs whose output is being encoded, wanted or not."""
        self.live: dict[identity.GenerationKey, Generation] = {}
        """The generations that have not ended."""
        self.drain_until: float | None = None
        self._last_run = 0
        self.waiting = estimates.Waiting()
        self._out: list[instructions.AnyInstruction] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left that anybody could want from this worker."""
        return not any(
            found.end is None or found.end is State.SUCCEEDED
            for found in self.generations.values()
        )

    def find(self, key: identity.GenerationKey) -> Generation:
        """Return a generation.

        Raises:
            GenerationNotFoundError: Nobody submitted it to this incarnation.
            AlreadyAcknowledgedError: It was acknowledged and released.
            EvictedError: It was released for room or age.
        """
        found = self.generations.get(key)
        if found is not None:
            return found
        stone = self.tombstones.get(key)
        if stone is None:
            raise refusals.not_found(key)
        raise refusals.released(key, is_evicted=stone.is_evicted)

    def of_engine(self, engine_id: str) -> list[Generation]:
        """Return the generations of an engine id, oldest first."""
        return [found for key, found in self.generations.items() if key.engine_id == engine_id]

    def load(self, now: float) -> worker_pb2.WorkerLoad:
        """Describe how much there is to do."""
        return worker_pb2.WorkerLoad(
            slots=self.config.slots,
            running=len(self.runs),
            queued=len(self.line),
            queued_seconds=self.queued_seconds(now),
            retained_bytes=self.shelf.bytes,
        )

    def queued_seconds(self, now: float) -> float:
        """Estimate the seconds of work ahead of a new generation of priority 0."""
        return self.wait_seconds(len(self.line), now)

    def wait_seconds(self, position: int, now: float) -> float:
        """Estimate how long the generation at a place of the line waits."""
        share = position / len(self.line) if len(self.line) else 0.0
        waiting = self.estimator.seconds_of_all(self.waiting) * share
        running = sum(self._remaining(key, now) for key in self.runs.values())
        return (waiting + running) / self.config.slots

    def holds_lease(self, engine_id: str, now: float) -> bool:
        """Whether an engine is there, so that nothing of it may be evicted."""
        return self.fences.holds_lease(engine_id, now)

    def handle(self, stimulus: stimuli.AnyStimulus) -> list[instructions.AnyInstruction]:
        """Take note of something that happened and say what to do about it."""
        self._out = []
        try:
            self._dispatch(stimulus)
        except errors.KubediffusionError as error:
            self._out.append(instructions.Refuse(error=error))
        self._settle(stimulus.now)
        return self._out

    def _dispatch(self, stimulus: stimuli.AnyStimulus) -> None:  # noqa: C901 - a table
        match stimulus:
            case stimuli.Stepped():
                self._stepped(stimulus)
            case stimuli.Submitted():
                self._submitted(stimulus)
            case stimuli.RunStarted():
                self._run_started(stimulus)
            case stimuli.Computed():
                self._computed(stimulus)
            case stimuli.Encoded():
                self._encoded(stimulus)
            case stimuli.RunFailed():
                self._run_failed(stimulus)
            case stimuli.RunCancelled():
                self._run_cancelled(stimulus)
            case stimuli.ComputeFreed():
                self.runs.pop(stimulus.run, None)
            case stimuli.CancelAsked():
                self._cancel_asked(stimulus)
            case stimuli.Acknowledged():
                self._acknowledged(stimulus)
            case stimuli.WatchOpened():
                self._claim(stimulus.caller, stimulus.now)
                self.fences.open_watch(stimulus.watch, stimulus.caller)
            case stimuli.WatchClosed():
                self.fences.close_watch(stimulus.watch, stimulus.engine_id, stimulus.now)
            case stimuli.ModelLoaded():
                if self.worker_state == worker_pb2.WORKER_STATE_STARTING:
                    self.worker_state = worker_pb2.WORKER_STATE_SERVING
            case stimuli.WorkerBroke():
                self._worker_broke(stimulus)
            case stimuli.DrainAsked():
                self._drain_asked(stimulus)
            case stimuli.Ticked():
                self._ticked(stimulus.now)
            case _:
                assert_never(stimulus)

    def _submitted(self, stimulus: stimuli.Submitted) -> None:
        fencing.check_writer(stimulus.caller, operators_allowed=False)
        self._claim(stimulus.caller, stimulus.now)
        known = self.generations.get(stimulus.key)
        if known is not None:
            if known.digest != stimulus.digest:
                raise refusals.conflict(stimulus.key)
            known.attempt = max(known.attempt, stimulus.attempt)
            return
        self._check_tombstone(stimulus)
        self._check_serving(stimulus.now)
        if stimulus.deadline is not None and stimulus.deadline <= stimulus.now:
            raise refusals.deadline_exceeded()
        self._check_room(stimulus)
        self._accept(stimulus)

    def _accept(self, stimulus: stimuli.Submitted) -> None:
        stone = self.tombstones.get(stimulus.key)
        last_sequence = stone.last_event.sequence if stone else 0
        self.tombstones.remove(stimulus.key)
        created = Generation(
            key=stimulus.key,
            digest=stimulus.digest,
            attempt=stimulus.attempt,
            priority=stimulus.priority,
            deadline=stimulus.deadline,
            work=stimulus.work,
            submitted_at=stimulus.now,
            events=ring.EventRing(self.config.ring_limits, last_sequence=last_sequence),
            spec=stimulus.spec,
        )
        self.generations[stimulus.key] = self.live[stimulus.key] = created
        position = self.line.push(
            stimulus.key, priority=stimulus.priority, size=stimulus.spec.ByteSize()
        )
        self.waiting.add(created.work)
        wait = self.wait_seconds(position, stimulus.now)
        queued = worker_pb2.QueuedEvent(position=position, wait_seconds=wait)
        self._emit(created, worker_pb2.GenerationEvent(queued=queued), stimulus.now)

    def _cancel_asked(self, stimulus: stimuli.CancelAsked) -> None:
        self._check_write(stimulus.caller, stimulus.now, operators_allowed=True)
        self._cancel(self.find(stimulus.key), stimulus.now)

    def _acknowledged(self, stimulus: stimuli.Acknowledged) -> None:
        self._check_write(stimulus.caller, stimulus.now, operators_allowed=False)
        found = self.generations.get(stimulus.key)
        if found is None:
            return  # Released before, or never here: either way there is nothing to keep.
        found.is_acknowledged = True
        if found.is_ended:
            self._release(found, stimulus.now, is_evicted=False)
        else:
            self._cancel(found, stimulus.now)

    def _claim(self, caller: identity.Caller, now: float) -> None:
        for watch, epoch in self.fences.claim(caller, now):
            error = refusals.stale_epoch(caller.engine_id, epoch, caller.epoch)
            self._out.append(instructions.EndWatch(watch=watch, error=error))

    def _check_write(
        self, caller: identity.Caller, now: float, *, operators_allowed: bool
    ) -> None:
        fencing.check_writer(caller, operators_allowed=operators_allowed)
        if caller.is_owner:
            self._claim(caller, now)

    def _check_tombstone(self, stimulus: stimuli.Submitted) -> None:
        stone = self.tombstones.get(stimulus.key)
        if stone is None or (stone.can_return and stimulus.attempt > stone.attempt):
            return  # What gave no result may be computed again, if the engine says so.
        raise refusals.released(stimulus.key, is_evicted=stone.is_evicted)

    def _check_serving(self, now: float) -> None:
        if self.worker_state == worker_pb2.WORKER_STATE_STARTING:
            raise refusals.starting()
        if self.worker_state == worker_pb2.WORKER_STATE_FAILED:
            raise refusals.failed()
        if self.drain_until is not None:
            raise refusals.draining(self.drain_until - now)

    def _check_room(self, stimulus: stimuli.Submitted) -> None:
        engine_id, now = stimulus.key.engine_id, stimulus.now
        full = self.line.refusal(engine_id, stimulus.spec.ByteSize())
        if full is not None:
            wait = self.queued_seconds(now) / max(1, len(self.line))
            raise refusals.queue_full(full, wait)
        full = self.shelf.refusal(engine_id, lambda other: self.holds_lease(other, now))
        if full is not None:
            raise refusals.retention_full(full)

    def _run_started(self, stimulus: stimuli.RunStarted) -> None:
        found = self._current(stimulus.run)
        if found is None or found.phase is not Phase.ASSIGNED:
            return
        found.phase = Phase.COMPUTING
        found.started_at = found.progress_at = stimulus.now
        started = worker_pb2.GenerationEvent(started=worker_pb2.StartedEvent())
        self._emit(found, started, stimulus.now)

    def _stepped(self, stimulus: stimuli.Stepped) -> None:
        found = self._current(stimulus.run)
        if found is None or found.phase is not Phase.COMPUTING:
            return
        progress = found.take_progress(
            step=stimulus.step,
            total=stimulus.total,
            timestep=stimulus.timestep,
            seconds=stimulus.seconds,
        )
        found.progress_at = stimulus.now
        self._emit(found, worker_pb2.GenerationEvent(progress=progress), stimulus.now)

    def _computed(self, stimulus: stimuli.Computed) -> None:
        found = self._current(stimulus.run)
        if found is None or found.phase is not Phase.COMPUTING:
            return
        if found.is_cancelling:
            self._end_cancelled(found, stimulus.now)
            return
        found.phase = Phase.ENCODING
        self.encoding[stimulus.run] = found.key
        self._out.append(instructions.Encode(key=found.key, run=stimulus.run))

    def _encoded(self, stimulus: stimuli.Encoded) -> None:
        found = self._current(stimulus.run)
        self.encoding.pop(stimulus.run, None)
        if found is None or found.phase is not Phase.ENCODING:
            return
        found.result = stimulus.result
        metrics = stimulus.result.metrics
        self.estimator.observe(
            steps=metrics.steps,
            step_seconds=metrics.step_seconds,
            total_seconds=metrics.compute_seconds,
        )
        self._out.append(instructions.Keep(key=found.key, run=stimulus.run))
        succeeded = worker_pb2.SucceededEvent(result=stimulus.result)
        self._end(found, worker_pb2.GenerationEvent(succeeded=succeeded), stimulus.now)

    def _run_failed(self, stimulus: stimuli.RunFailed) -> None:
        found = self._current(stimulus.run)
        self.encoding.pop(stimulus.run, None)
        if found is not None:
            self._end_failed(found, stimulus.error, stimulus.now)

    def _run_cancelled(self, stimulus: stimuli.RunCancelled) -> None:
        found = self._current(stimulus.run)
        if found is not None:
            self._end_cancelled(found, stimulus.now)

    def _current(self, run: int) -> Generation | None:
        """Return the generation of a run that has not been given up."""
        key = self.runs.get(run) or self.encoding.get(run)
        found = self.generations.get(key) if key else None
        return found if found and found.run == run and not found.is_ended else None

    def _worker_broke(self, stimulus: stimuli.WorkerBroke) -> None:
        self.worker_state = worker_pb2.WORKER_STATE_FAILED
        for found in list(self.live.values()):
            if found.phase is Phase.WAITING:
                self._hand_over(found, stimulus.now)
            else:
                self._end_failed(found, stimulus.error, stimulus.now)

    def _drain_asked(self, stimulus: stimuli.DrainAsked) -> None:
        if self.drain_until is None or stimulus.until < self.drain_until:
            self.drain_until = stimulus.until
        if self.worker_state != worker_pb2.WORKER_STATE_FAILED:
            self.worker_state = worker_pb2.WORKER_STATE_DRAINING
        for found in list(self.live.values()):
            if found.phase in (Phase.WAITING, Phase.ASSIGNED):
                self._hand_over(found, stimulus.now)

    def _ticked(self, now: float) -> None:
        for found in list(self.live.values()):
            if found.deadline is not None and found.deadline <= now:
                self._give_up(found)
                self._end_failed(found, refusals.deadline_exceeded(), now)
            elif self._is_orphan(found, now):
                self._cancel(found, now)
        self._evict(now)
        self.tombstones.expire(now)
        self.fences.forget(now, self._has_anything_of)

    def _settle(self, now: float) -> None:
        """Do what the new situation asks for, whatever led to it."""
        if self.drain_until is not None:
            for found in list(self.live.values()):
                if not self._fits_into_drain(found, now):
                    self._hand_over(found, now)
        if self.worker_state == worker_pb2.WORKER_STATE_SERVING:
            self._start_runs(now)

    def _start_runs(self, now: float) -> None:
        def has_room(engine_id: str) -> bool:
            return not self.shelf.refusal(engine_id, lambda other: self.holds_lease(other, now))

        while len(self.runs) < self.config.slots and (
            len(self.encoding) < self.config.max_encoding
        ):
            key = self.line.pop(has_room)
            if key is None:
                return
            self._start(self.generations[key])

    def _start(self, found: Generation) -> None:
        self.waiting.remove(found.work)
        self._last_run += 1
        found.phase, found.run = Phase.ASSIGNED, self._last_run
        spec, found.spec = found.spec, None
        assert spec is not None, "a waiting generation has its specification"
        self.runs[found.run] = found.key
        self._out.append(instructions.Start(key=found.key, run=found.run, spec=spec))

    def _fits_into_drain(self, found: Generation, now: float) -> bool:
        assert self.drain_until is not None, "asked while draining"
        # The first steps may hold a warm-up, so that they say little about the rest.
        is_known = found.phase is Phase.COMPUTING and len(found.step_times) >= 3
        needed = (found.eta or 0.0) if is_known else 0.0
        return now + needed < self.drain_until

    def _is_orphan(self, found: Generation, now: float) -> bool:
        limit = self.config.orphan_cancel_seconds
        if limit is None:
            return False
        since = self.fences.unleased_since(found.key.engine_id, now)
        return since is not None and now - max(since, found.submitted_at) >= limit

    def _has_anything_of(self, engine_id: str) -> bool:
        return self.shelf.holds_any_of(engine_id) or any(
            key.engine_id == engine_id for key in self.live
        )

    def _cancel(self, found: Generation, now: float) -> None:
        if found.is_ended or found.is_cancelling:
            return
        found.is_cancelling = True
        if found.phase in (Phase.ASSIGNED, Phase.COMPUTING):
            self._out.append(instructions.RaiseCancel(run=found.run))
        else:
            self._end_cancelled(found, now)

    def _give_up(self, found: Generation) -> None:
        """Let a run end without waiting for it; what it still reports is ignored."""
        if found.phase in (Phase.ASSIGNED, Phase.COMPUTING):
            self._out.append(instructions.RaiseCancel(run=found.run))

    def _hand_over(self, found: Generation, now: float) -> None:
        self._give_up(found)
        handed_over = worker_pb2.HandedOverEvent()
        self._end(found, worker_pb2.GenerationEvent(handed_over=handed_over), now)

    def _end_cancelled(self, found: Generation, now: float) -> None:
        self._end(found, _cancelled(found), now)

    def _end_failed(self, found: Generation, error: errors.KubediffusionError, now: float) -> None:
        if not found.is_cancelling:
            found.error = error
        failed = worker_pb2.FailedEvent(error=errors.to_message(error))
        self._end(found, worker_pb2.GenerationEvent(failed=failed), now)

    def _end(self, found: Generation, event: worker_pb2.GenerationEvent, now: float) -> None:
        if found.is_cancelling:
            # Whatever else happened in the meantime, its owner was told that it would end.
            event = _cancelled(found)
        if found.phase is Phase.WAITING:
            self.line.remove(found.key)
            self.waiting.remove(found.work)
        found.phase = Phase.ENDED
        found.end = generation.END_STATES[event.WhichOneof("event") or ""]
        found.spec = None
        del self.live[found.key]
        self.shelf.put(found.key, found.result.size if found.result else 0, now)
        self._emit(found, event, now)
        if found.is_acknowledged:
            self._release(found, now, is_evicted=False)
        self._evict(now)

    def _evict(self, now: float) -> None:
        for key in self.shelf.victims(now, lambda other: self.holds_lease(other, now)):
            self._release(self.generations[key], now, is_evicted=True)

    def _release(self, found: Generation, now: float, *, is_evicted: bool) -> None:
        last = found.events.newest
        assert last is not None, "an ended generation has a terminal event"
        del self.generations[found.key]
        self.shelf.remove(found.key)
        stone = retention.Tombstone(
            is_evicted=is_evicted,
            attempt=found.attempt,
            digest=found.digest,
            last_event=last,
            released_at=now,
        )
        self.tombstones.put(found.key, stone)
        self._out.append(instructions.Free(key=found.key, is_evicted=is_evicted))

    def _emit(self, found: Generation, event: worker_pb2.GenerationEvent, now: float) -> None:
        event.engine_id, event.request_id = found.key
        event.attempt = found.attempt
        event.time.FromNanoseconds(int(now * 1e9))
        found.events.append(event)
        self._out.append(instructions.Emit(key=found.key, event=event))

    def _remaining(self, key: identity.GenerationKey, now: float) -> float:
        """Estimate the seconds that a run still holds its slot."""
        found = self.live.get(key)
        if found is None:
            return 0.0  # It is about to leave.
        spent = now - found.started_at if found.started_at is not None else 0.0
        return max(found.eta or 0.0, self.estimator.seconds(found.work) - spent, 0.0)


def _cancelled(found: Generation) -> worker_pb2.GenerationEvent:
    return worker_pb2.GenerationEvent(cancelled=worker_pb2.CancelledEvent(step=found.step))

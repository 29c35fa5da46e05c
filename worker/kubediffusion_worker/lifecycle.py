"""The state machine of all generations of a worker: stimuli in, instructions out.

    WAITING -> ASSIGNED -> COMPUTING -> ENCODING -> ENDED (succeeded, failed, cancelled,
                              |  ^                        handed over) -> released
                              v  |
                             PARKED

There is no I/O, clock or randomness in here: the same stimuli always give the same
instructions. A refused stimulus gives a `Refuse` among them. The shape is that of dask's
`worker_state_machine.py`. What a worker holds is in `lives`, how generations run, stand
still, are saved and are left to others in `running`, `parking`, `preserving`, `draining`.
"""

from typing import assert_never

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    draining,
    fencing,
    instructions,
    lives,
    parking,
    preserving,
    refusals,
    ring,
    running,
    stimuli,
)
from kubediffusion_worker.generation import Generation

LifecycleConfig = lives.LifecycleConfig


class Lifecycle(lives.Lives):
    """Decides what becomes of generations. Read anything, change it by `handle` alone."""

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
                running.stepped(self, stimulus)
            case stimuli.Submitted():
                self._submitted(stimulus)
            case stimuli.RunStarted():
                running.run_started(self, stimulus)
            case stimuli.Computed():
                running.computed(self, stimulus)
            case stimuli.Encoded():
                running.encoded(self, stimulus)
            case stimuli.RunFailed():
                running.run_failed(self, stimulus)
            case stimuli.RunCancelled():
                running.run_cancelled(self, stimulus)
            case stimuli.Previewed():
                running.previewed(self, stimulus)
            case stimuli.PauseAsked():
                parking.pause_asked(self, stimulus)
            case stimuli.UnpauseAsked():
                parking.unpause_asked(self, stimulus)
            case stimuli.Parked():
                parking.parked(self, stimulus)
            case stimuli.CheckpointAsked():
                preserving.checkpoint_asked(self, stimulus)
            case stimuli.Captured():
                preserving.captured(self, stimulus)
            case stimuli.NotSaved():
                preserving.not_saved(self, stimulus)
            case stimuli.Stored():
                preserving.stored(self, stimulus)
            case stimuli.Resumed():
                preserving.resumed(self, stimulus)
            case stimuli.ComputeFreed():
                self.runs.pop(stimulus.run, None)
            case stimuli.CancelAsked():
                self._cancel_asked(stimulus)
            case stimuli.Acknowledged():
                self._acknowledged(stimulus)
            case stimuli.WatchOpened():
                self.claim(stimulus.caller, stimulus.now)
                self.fences.open_watch(stimulus.watch, stimulus.caller)
            case stimuli.WatchClosed():
                self.fences.close_watch(stimulus.watch, stimulus.engine_id, stimulus.now)
            case stimuli.ModelLoaded():
                self.is_loaded = True
                if self.worker_state == worker_pb2.WORKER_STATE_STARTING:
                    self.worker_state = worker_pb2.WORKER_STATE_SERVING
            case stimuli.WorkerBroke():
                self._worker_broke(stimulus)
            case stimuli.DrainAsked():
                draining.drain_asked(self, stimulus)
            case stimuli.UndrainAsked():
                draining.undrain_asked(self, stimulus)
            case stimuli.Ticked():
                self._ticked(stimulus.now)
            case _:
                assert_never(stimulus)

    def _submitted(self, stimulus: stimuli.Submitted) -> None:
        fencing.check_writer(stimulus.caller, operators_allowed=False)
        self.claim(stimulus.caller, stimulus.now)
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
        if stimulus.checkpoint is not None:
            preserving.came_with(self, stimulus.key, stimulus.checkpoint)
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
        self.emit(created, worker_pb2.GenerationEvent(queued=queued), stimulus.now)

    def _cancel_asked(self, stimulus: stimuli.CancelAsked) -> None:
        self.check_write(stimulus.caller, stimulus.now, operators_allowed=True)
        self.cancel(self.find(stimulus.key), stimulus.now)

    def _acknowledged(self, stimulus: stimuli.Acknowledged) -> None:
        self.check_write(stimulus.caller, stimulus.now, operators_allowed=False)
        found = self.generations.get(stimulus.key)
        if found is None:
            return  # Released before, or never here: either way there is nothing to keep.
        found.is_acknowledged = True
        if found.is_ended:
            self.release(found, stimulus.now, is_evicted=False)
        else:
            self.cancel(found, stimulus.now)

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

    def _worker_broke(self, stimulus: stimuli.WorkerBroke) -> None:
        self.worker_state = worker_pb2.WORKER_STATE_FAILED
        for found in list(self.live.values()):
            if found.started_at is None:
                self.hand_over(found, stimulus.now)
            else:
                self.end_failed(found, stimulus.error, stimulus.now)

    def _ticked(self, now: float) -> None:
        for found in list(self.live.values()):
            if found.deadline is not None and found.deadline <= now:
                self.give_up(found)
                self.end_failed(found, refusals.deadline_exceeded(), now)
            elif self._is_orphan(found, now):
                self.cancel(found, now)
        self.evict(now)
        self.tombstones.expire(now)
        self.fences.forget(now, self._has_anything_of)

    def _settle(self, now: float) -> None:
        """Do what the new situation asks for, whatever led to it."""
        draining.go_on(self, now)
        if self.worker_state == worker_pb2.WORKER_STATE_SERVING:
            running.start_runs(self, now)

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

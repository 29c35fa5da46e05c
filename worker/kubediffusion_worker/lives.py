"""What a worker holds, and the moves that its decisions are made of.

`lifecycle.Lifecycle` is this and the decisions; they lie by topic in `running`, `parking`,
`preserving` and `draining`, as functions of what is here. No I/O, clock or randomness.
"""

import dataclasses

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    checkpoints,
    estimates,
    fencing,
    generation,
    identity,
    instructions,
    queueing,
    refusals,
    retention,
    ring,
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
    checkpoint_limits: checkpoints.CheckpointLimits = dataclasses.field(
        default_factory=checkpoints.CheckpointLimits
    )
    fence_limits: fencing.FenceLimits = dataclasses.field(default_factory=fencing.FenceLimits)
    slots: int = 4
    """Generations that may have begun at once. They share the compute thread in turns, so
    that an image need not wait for a video; each holds its latents and embeddings on the
    device, hence not more. Lower priorities fill no slots of higher ones: up to twice as
    many have begun while urgent work overtakes."""
    max_parked: int = 8
    """Begun generations that may stand still at once; they hold no slot, but memory."""
    max_encoding: int = 2
    """Outputs that wait for their encoding; no run starts while there are more."""
    orphan_cancel_seconds: float | None = None
    """Seconds without a lease after which the work of an engine is cancelled; None: it is
    finished and kept."""

    def __post_init__(self) -> None:
        """Refuse bounds that would stop everything."""
        if min(self.slots, self.max_parked, self.max_encoding) < 1:
            raise ValueError("slots, max_parked and max_encoding must be positive")

    @property
    def max_active(self) -> int:
        """Generations that may compute in turns, urgent ones included."""
        return 2 * self.slots

    @property
    def max_runs(self) -> int:
        """Generations that may have begun, whatever they do."""
        return self.max_active + self.max_parked


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Drain:
    """How the worker is being emptied."""

    began_at: float
    until: float
    policy: worker_pb2.DrainPolicy
    is_exit: bool
    """Whether the worker ends afterwards."""


class Lives:
    """All generations of a worker, and what is kept beside them."""

    def __init__(self, config: LifecycleConfig) -> None:
        self.config = config
        self.worker_state: worker_pb2.WorkerState = worker_pb2.WORKER_STATE_STARTING
        self.is_loaded = False
        """Whether the model is in memory."""
        self.drain: Drain | None = None
        self.generations: dict[identity.GenerationKey, Generation] = {}
        self.line = queueing.WaitingLine(config.line_limits)
        self.waiting = estimates.Waiting()
        self.shelf = retention.Shelf(config.retention_limits)
        self.saved = checkpoints.CheckpointShelf(config.checkpoint_limits)
        self.tombstones = retention.Tombstones(config.retention_limits)
        self.fences = fencing.Fences(config.fence_limits)
        self.estimator = estimates.Estimator()
        self.runs: dict[int, identity.GenerationKey] = {}
        """The runs that the compute thread has, given up or not."""
        self.encoding: dict[int, identity.GenerationKey] = {}
        """The runs whose output is being encoded, wanted or not."""
        self.live: dict[identity.GenerationKey, Generation] = {}
        """The generations that have not ended."""
        self._last_run = 0
        self._out: list[instructions.AnyInstruction] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left that anybody could want from this worker."""
        return not any(
            found.end is None or found.end is State.SUCCEEDED or key in self.saved
            for key, found in self.generations.items()
        )

    @property
    def drain_until(self) -> float | None:
        """When the worker has to be empty; None while it need not be."""
        return self.drain.until if self.drain else None

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
            retained_bytes=self.shelf.bytes + self.saved.bytes,
        )

    def queued_seconds(self, now: float) -> float:
        """Estimate the seconds of work ahead of a new generation of priority 0."""
        return self.wait_seconds(len(self.line), now)

    def wait_seconds(self, position: int, now: float) -> float:
        """Estimate the work ahead of the generation at a place of the line, in seconds.

        Runs take turns on one thread, so that their work adds up however many there are.
        """
        share = position / len(self.line) if len(self.line) else 0.0
        waiting = self.estimator.seconds_of_all(self.waiting) * share
        return waiting + sum(self._remaining(key, now) for key in self.runs.values())

    def holds_lease(self, engine_id: str, now: float) -> bool:
        """Whether an engine is there, so that nothing of it may be evicted."""
        return self.fences.holds_lease(engine_id, now)

    def current(self, run: int) -> Generation | None:
        """Return the generation of a run that has not been given up."""
        key = self.runs.get(run) or self.encoding.get(run)
        found = self.generations.get(key) if key else None
        return found if found and found.run == run and not found.is_ended else None

    def say(self, instruction: instructions.AnyInstruction) -> None:
        """Add to what the current stimulus is answered with."""
        self._out.append(instruction)

    def claim(self, caller: identity.Caller, now: float) -> None:
        """Let a caller act as the owner of its engine id.

        Raises:
            StaleEpochError: A newer start of the engine has been here.
        """
        for watch, epoch in self.fences.claim(caller, now):
            error = refusals.stale_epoch(caller.engine_id, epoch, caller.epoch)
            self.say(instructions.EndWatch(watch=watch, error=error))

    def check_write(self, caller: identity.Caller, now: float, *, operators_allowed: bool) -> None:
        """Refuse a write that the caller may not do."""
        fencing.check_writer(caller, operators_allowed=operators_allowed)
        if caller.is_owner:
            self.claim(caller, now)

    def next_run(self) -> int:
        """Number a new run."""
        self._last_run += 1
        return self._last_run

    def emit(self, found: Generation, event: worker_pb2.GenerationEvent, now: float) -> None:
        """Tell an event of a generation."""
        event.engine_id, event.request_id = found.key
        event.attempt = found.attempt
        event.time.FromNanoseconds(int(now * 1e9))
        found.events.append(event)
        self.say(instructions.Emit(key=found.key, event=event))

    def cancel(self, found: Generation, now: float) -> None:
        """Let a generation end because its owner wants it to."""
        if found.is_ended or found.is_cancelling:
            return
        found.is_cancelling = True
        self.give_up(found)
        if found.started_at is None or found.phase is Phase.ENCODING:
            self.end_cancelled(found, now)  # Nothing is in the pipeline that would tell.

    def give_up(self, found: Generation) -> None:
        """Let a run end without waiting for it; what it still reports is ignored."""
        if found.phase in generation.ON_THREAD:
            self.say(instructions.RaiseCancel(run=found.run))

    def hand_over(self, found: Generation, now: float) -> None:
        """Leave a generation to another worker, with its newest checkpoint."""
        self.give_up(found)
        handed_over = worker_pb2.HandedOverEvent(checkpoint=self.saved.newest(found.key))
        self.end(found, worker_pb2.GenerationEvent(handed_over=handed_over), now)

    def end_cancelled(self, found: Generation, now: float) -> None:
        """Note that a generation is over because its owner wanted it to be."""
        self.end(found, _cancelled(found), now)

    def end_failed(self, found: Generation, error: errors.KubediffusionError, now: float) -> None:
        """Note that a generation is over with an error."""
        if not found.is_cancelling:
            found.error = error
        failed = worker_pb2.FailedEvent(error=errors.to_message(error))
        self.end(found, worker_pb2.GenerationEvent(failed=failed), now)

    def end(self, found: Generation, event: worker_pb2.GenerationEvent, now: float) -> None:
        """Note that a generation is over."""
        if found.is_cancelling:
            # Whatever else happened in the meantime, its owner was told that it would end.
            event = _cancelled(found)
        if found.phase is Phase.WAITING:
            self.line.remove(found.key)
            self.waiting.remove(found.work)
        found.phase = Phase.ENDED
        found.end = generation.END_STATES[event.WhichOneof("event") or ""]
        found.spec = None
        found.is_paused = found.is_stopping = False
        del self.live[found.key]
        self._keep_for_others(found)
        self.shelf.put(found.key, found.result.size if found.result else 0, now)
        self.emit(found, event, now)
        if found.is_acknowledged:
            self.release(found, now, is_evicted=False)
        self.evict(now)

    def evict(self, now: float) -> None:
        """Drop what is over its bounds."""
        for key in self.shelf.victims(now, lambda other: self.holds_lease(other, now)):
            self.release(self.generations[key], now, is_evicted=True)

    def release(self, found: Generation, now: float, *, is_evicted: bool) -> None:
        """Forget an ended generation but for its tombstone."""
        last = found.events.newest
        assert last is not None, "an ended generation has a terminal event"
        del self.generations[found.key]
        self.shelf.remove(found.key)
        self.drop_checkpoints(self.saved.drop(found.key))
        stone = retention.Tombstone(
            is_evicted=is_evicted,
            attempt=found.attempt,
            digest=found.digest,
            last_event=last,
            released_at=now,
        )
        self.tombstones.put(found.key, stone)
        self.say(instructions.Free(key=found.key, is_evicted=is_evicted))

    def drop_checkpoints(self, places: list[checkpoints.Place]) -> None:
        """Say that checkpoints are not kept any more."""
        for place in places:
            self.say(instructions.DropCheckpoint(key=place.key, step=place.step))

    def _keep_for_others(self, found: Generation) -> None:
        """Keep the newest checkpoint of what another worker will go on with, and no other."""
        is_over_here = isinstance(found.error, errors.WorkerFailedError)
        if found.end is State.HANDED_OVER or is_over_here:
            self.drop_checkpoints(self.saved.keep_newest(found.key))
            self.saved.protect(found.key)
        else:
            self.drop_checkpoints(self.saved.drop(found.key))

    def _remaining(self, key: identity.GenerationKey, now: float) -> float:
        """Estimate the seconds that a run still computes."""
        found = self.live.get(key)
        if found is None or found.is_paused:
            return 0.0  # It is about to leave, or not in the way.
        spent = now - found.started_at if found.started_at is not None else 0.0
        return max(found.eta or 0.0, self.estimator.seconds(found.work) - spent, 0.0)


def _cancelled(found: Generation) -> worker_pb2.GenerationEvent:
    return worker_pb2.GenerationEvent(cancelled=worker_pb2.CancelledEvent(step=found.step))

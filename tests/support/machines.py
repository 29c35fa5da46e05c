"""Builders for tests of the worker's state machine."""

import dataclasses
import hashlib
from typing import TypeVar

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    checkpoints,
    estimates,
    fencing,
    generation,
    identity,
    instructions,
    invariants,
    lifecycle,
    queueing,
    retention,
    ring,
    stimuli,
)

Kind = TypeVar("Kind", bound=instructions.AnyInstruction)


def caller(
    engine_id: str = "e", epoch: int = 1, instance: str = "i", role: str = "ENGINE"
) -> identity.Caller:
    return identity.Caller(
        engine_id=engine_id,
        epoch=identity.Epoch(epoch, instance),
        role=identity.Role[role],
    )


def checkpoint(step: int, *, size: int = 10) -> worker_pb2.CheckpointInfo:
    return worker_pb2.CheckpointInfo(
        step=step, size=size, sha256=f"{step:064x}", fingerprint="f", format=1
    )


def config(
    *,
    line: queueing.LineLimits | None = None,
    kept: retention.RetentionLimits | None = None,
    max_encoding: int = 2,
    orphan_cancel_seconds: float | None = None,
    max_events: int = 256,
    slots: int = 1,
    max_parked: int = 8,
    saved: checkpoints.CheckpointLimits | None = None,
) -> lifecycle.LifecycleConfig:
    return lifecycle.LifecycleConfig(
        slots=slots,
        max_parked=max_parked,
        checkpoint_limits=saved or checkpoints.CheckpointLimits(),
        line_limits=line or queueing.LineLimits(),
        retention_limits=kept or retention.RetentionLimits(),
        fence_limits=fencing.FenceLimits(),
        ring_limits=ring.RingLimits(max_events=max_events),
        max_encoding=max_encoding,
        orphan_cancel_seconds=orphan_cancel_seconds,
    )


@dataclasses.dataclass
class Machine:
    """A state machine whose clock the test moves, checked after every stimulus."""

    core: lifecycle.Lifecycle
    now: float = 1000.0
    said: list[instructions.AnyInstruction] = dataclasses.field(default_factory=list)
    """All instructions so far."""
    refused: errors.KubediffusionError | None = None
    """What the newest stimulus was answered with."""

    def handle(self, stimulus: stimuli.AnyStimulus) -> list[instructions.AnyInstruction]:
        out = self.core.handle(stimulus)
        invariants.check(self.core)
        self.said += out
        refusals = [item.error for item in out if isinstance(item, instructions.Refuse)]
        assert len(refusals) <= 1
        self.refused = refusals[0] if refusals else None
        return out

    def submit(
        self,
        request_id: str,
        *,
        by: identity.Caller | None = None,
        prompt: str = "p",
        attempt: int = 1,
        priority: int = 0,
        deadline: float | None = None,
        steps: int = 4,
        checkpoint: worker_pb2.CheckpointInfo | None = None,
    ) -> list[instructions.AnyInstruction]:
        who = by or caller()
        return self.handle(
            stimuli.Submitted(
                now=self.now,
                key=identity.GenerationKey(who.engine_id, request_id),
                caller=who,
                spec=worker_pb2.GenerationSpec(prompt=prompt),
                digest=hashlib.sha256(prompt.encode()).hexdigest(),
                attempt=attempt,
                priority=priority,
                deadline=deadline,
                work=estimates.Work(steps=steps),
                checkpoint=checkpoint,
            )
        )

    def started(self, request_id: str, engine_id: str = "e") -> int:
        """Let the compute thread begin with a generation; return the number of its run."""
        run = self[request_id, engine_id].run
        self.handle(stimuli.RunStarted(now=self.now, run=run))
        return run

    def step(self, run: int, step: int, *, total: int = 4, seconds: float = 1.0) -> None:
        self.now += seconds
        self.handle(
            stimuli.Stepped(
                now=self.now, run=run, step=step, total=total, timestep=1.0, seconds=seconds
            )
        )

    def computed(self, run: int) -> None:
        self.handle(stimuli.Computed(now=self.now, run=run))
        self.freed(run)

    def freed(self, run: int) -> None:
        self.handle(stimuli.ComputeFreed(now=self.now, run=run))

    def encoded(self, run: int, *, size: int = 10) -> None:
        metrics = worker_pb2.GenerationMetrics(steps=4, step_seconds=1.0, compute_seconds=5.0)
        result = worker_pb2.Result(size=size, sha256="00", metrics=metrics)
        self.handle(stimuli.Encoded(now=self.now, run=run, result=result))

    def run_to_end(self, request_id: str, engine_id: str = "e", *, size: int = 10) -> None:
        run = self.started(request_id, engine_id)
        self.computed(run)
        self.encoded(run, size=size)

    def cancel(self, request_id: str, by: identity.Caller | None = None) -> None:
        who = by or caller()
        key = identity.GenerationKey(who.engine_id, request_id)
        self.handle(stimuli.CancelAsked(now=self.now, key=key, caller=who))

    def acknowledge(self, request_id: str, by: identity.Caller | None = None) -> None:
        who = by or caller()
        key = identity.GenerationKey(who.engine_id, request_id)
        self.handle(stimuli.Acknowledged(now=self.now, key=key, caller=who))

    def watch(self, watch: int, by: identity.Caller | None = None) -> None:
        self.handle(stimuli.WatchOpened(now=self.now, watch=watch, caller=by or caller()))

    def unwatch(self, watch: int, engine_id: str = "e") -> None:
        self.handle(stimuli.WatchClosed(now=self.now, watch=watch, engine_id=engine_id))

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.handle(stimuli.Ticked(now=self.now))

    def drain(
        self, seconds: float, policy: str = "FINISH_THEN_CHECKPOINT", *, is_exit: bool = False
    ) -> None:
        self.handle(
            stimuli.DrainAsked(
                now=self.now,
                until=self.now + seconds,
                policy=getattr(worker_pb2, f"DRAIN_POLICY_{policy}"),
                is_exit=is_exit,
            )
        )

    def undrain(self) -> None:
        self.handle(stimuli.UndrainAsked(now=self.now))

    def pause(self, request_id: str, by: identity.Caller | None = None) -> None:
        who = by or caller()
        key = identity.GenerationKey(who.engine_id, request_id)
        self.handle(stimuli.PauseAsked(now=self.now, key=key, caller=who))

    def unpause(self, request_id: str, by: identity.Caller | None = None) -> None:
        who = by or caller()
        key = identity.GenerationKey(who.engine_id, request_id)
        self.handle(stimuli.UnpauseAsked(now=self.now, key=key, caller=who))

    def parked(self, run: int, step: int) -> None:
        self.handle(stimuli.Parked(now=self.now, run=run, step=step))

    def ask_checkpoint(self, request_id: str, by: identity.Caller | None = None) -> None:
        who = by or caller()
        key = identity.GenerationKey(who.engine_id, request_id)
        self.handle(stimuli.CheckpointAsked(now=self.now, key=key, caller=who))

    def captured(self, run: int, step: int) -> None:
        self.handle(stimuli.Captured(now=self.now, run=run, step=step))

    def stored(self, run: int, step: int, *, size: int = 10) -> None:
        info = checkpoint(step, size=size)
        self.handle(stimuli.Stored(now=self.now, run=run, info=info))

    def save(self, run: int, step: int, *, size: int = 10) -> None:
        """Let a checkpoint be taken and stored."""
        self.captured(run, step)
        self.stored(run, step, size=size)

    def not_saved(self, run: int) -> None:
        self.handle(stimuli.NotSaved(now=self.now, run=run))

    def __getitem__(self, key: str | tuple[str, str]) -> generation.Generation:
        request_id, engine_id = (key, "e") if isinstance(key, str) else key
        return self.core.generations[identity.GenerationKey(engine_id, request_id)]

    def told(self, kind: type[Kind]) -> list[Kind]:
        """Return all instructions of one kind so far."""
        return [item for item in self.said if isinstance(item, kind)]

    def events(self, request_id: str, engine_id: str = "e") -> list[str]:
        """Return the names of the events of a generation, from the instructions."""
        key = identity.GenerationKey(engine_id, request_id)
        return [
            item.event.WhichOneof("event") or ""
            for item in self.told(instructions.Emit)
            if item.key == key
        ]


def a_machine(settings: lifecycle.LifecycleConfig | None = None) -> Machine:
    """Make a machine whose model is loaded."""
    machine = Machine(lifecycle.Lifecycle(settings or config()))
    machine.handle(stimuli.ModelLoaded(now=machine.now))
    return machine

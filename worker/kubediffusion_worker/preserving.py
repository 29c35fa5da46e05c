"""The checkpoints of generations: when they are taken, and what they are kept for."""

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import (
    draining,
    generation,
    identity,
    instructions,
    lives,
    refusals,
    stimuli,
)
from kubediffusion_worker.generation import Generation


def came_with(
    core: lives.Lives, key: identity.GenerationKey, info: worker_pb2.CheckpointInfo
) -> None:
    """Keep the checkpoint that a request shall go on from.

    Raises:
        RetentionFullError: There is no room for it.
    """
    dropped = core.saved.put(key, info)
    if dropped is None:
        raise refusals.no_room_for_checkpoint(info.size)
    core.saved.protect(key)
    core.say(instructions.KeepCheckpoint(key=key, step=info.step, run=0))
    core.drop_checkpoints(dropped)


def checkpoint_asked(core: lives.Lives, stimulus: stimuli.CheckpointAsked) -> None:
    """Take a checkpoint at the next boundary."""
    core.check_write(stimulus.caller, stimulus.now, operators_allowed=True)
    found = core.find(stimulus.key)
    if found.phase is generation.Phase.WAITING:
        raise refusals.not_begun(found.key)
    if found.phase not in generation.ON_THREAD or found.is_cancelling:
        raise refusals.past_its_steps(found.key, found.state.name)
    core.say(instructions.Capture(run=found.run))


def captured(core: lives.Lives, stimulus: stimuli.Captured) -> None:
    """Note that the state of a run is on its way to be stored."""
    found = _on_thread(core, stimulus.run)
    if found is not None:
        found.drafted_at = stimulus.step
        if found.is_stopping and found.parked_at is not None:
            found.parked_at = stimulus.step


def stored(core: lives.Lives, stimulus: stimuli.Stored) -> None:
    """Keep a checkpoint, and tell of it; where there is no room the run goes on without."""
    found = _on_thread(core, stimulus.run)
    if found is None or found.is_cancelling:
        return
    dropped = core.saved.put(found.key, stimulus.info)
    if dropped is None:
        not_saved(core, stimuli.NotSaved(now=stimulus.now, run=stimulus.run))
        return
    info = stimulus.info
    core.say(instructions.KeepCheckpoint(key=found.key, step=info.step, run=stimulus.run))
    core.drop_checkpoints(dropped)
    core.saved.relax(found.key)
    checkpointed = worker_pb2.CheckpointedEvent(step=info.step, size=info.size, sha256=info.sha256)
    core.emit(found, worker_pb2.GenerationEvent(checkpointed=checkpointed), stimulus.now)
    if draining.is_saved(core, found):
        core.hand_over(found, stimulus.now)


def not_saved(core: lives.Lives, stimulus: stimuli.NotSaved) -> None:
    """Leave a generation that stands still for its checkpoint with the one before."""
    found = _on_thread(core, stimulus.run)
    if found is None:
        return
    found.drafted_at = None
    if found.is_stopping and found.parked_at is not None:
        core.hand_over(found, stimulus.now)


def resumed(core: lives.Lives, stimulus: stimuli.Resumed) -> None:
    """Tell where a run goes on from."""
    found = _on_thread(core, stimulus.run)
    if found is None:
        return
    if not stimulus.step:
        # The checkpoint is of no use: nobody shall try it again.
        core.drop_checkpoints(core.saved.drop(found.key))
    event = worker_pb2.ResumedEvent(from_step=stimulus.step, exactness=stimulus.exactness)
    core.emit(found, worker_pb2.GenerationEvent(resumed=event), stimulus.now)


def _on_thread(core: lives.Lives, run: int) -> Generation | None:
    found = core.current(run)
    return found if found is not None and found.phase in generation.ON_THREAD else None

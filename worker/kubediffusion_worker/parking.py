"""Generations that stand still because a caller wants them to."""

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import draining, generation, instructions, lives, refusals, stimuli
from kubediffusion_worker.generation import Generation, Phase


def pause_asked(core: lives.Lives, stimulus: stimuli.PauseAsked) -> None:
    """Keep a generation from starting, or let it stand still at its next boundary."""
    core.check_write(stimulus.caller, stimulus.now, operators_allowed=True)
    found = core.find(stimulus.key)
    if found.is_ended or found.is_cancelling or found.phase is Phase.ENCODING:
        raise refusals.past_its_steps(found.key, found.state.name)
    if found.is_paused:
        return
    if found.phase is Phase.WAITING:
        core.line.hold(found.key)
        found.is_paused = True
        _tell_parked(core, found, 0, stimulus.now)
        return
    if count_parked(core) >= core.config.max_parked:
        raise refusals.too_many_parked(core.config.max_parked)
    found.is_paused = True
    core.say(instructions.Park(run=found.run))


def unpause_asked(core: lives.Lives, stimulus: stimuli.UnpauseAsked) -> None:
    """Let a generation go on."""
    core.check_write(stimulus.caller, stimulus.now, operators_allowed=True)
    found = core.find(stimulus.key)
    if found.is_ended:
        raise refusals.past_its_steps(found.key, found.state.name)
    if not found.is_paused:
        return
    found.is_paused = False
    is_parked = found.phase in (Phase.WAITING, Phase.PARKED)
    if found.phase is Phase.WAITING:
        core.line.let_go(found.key)
    elif found.phase is Phase.PARKED:
        found.phase = Phase.ASSIGNED if found.started_at is None else Phase.COMPUTING
    if found.phase is not Phase.WAITING and not found.is_stopping:
        found.parked_at = None
        core.say(instructions.Unpark(run=found.run))
    if is_parked:
        unpaused = worker_pb2.GenerationEvent(unpaused=worker_pb2.UnpausedEvent())
        core.emit(found, unpaused, stimulus.now)


def parked(core: lives.Lives, stimulus: stimuli.Parked) -> None:
    """Note that a run stands still."""
    found = core.current(stimulus.run)
    if found is None or found.phase not in generation.ON_THREAD:
        return
    if not (found.is_paused or found.is_stopping):
        return  # It was told to go on in the meantime, and will.
    found.parked_at = stimulus.step
    if found.is_paused and found.phase is not Phase.PARKED:
        found.phase = Phase.PARKED
        _tell_parked(core, found, stimulus.step, stimulus.now)
    if found.is_stopping:
        draining.stopped(core, found, stimulus.now)


def count_parked(core: lives.Lives) -> int:
    """Count the begun generations that stand still, or are about to."""
    return sum(found.is_paused and found.run > 0 for found in core.live.values())


def _tell_parked(core: lives.Lives, found: Generation, step: int, now: float) -> None:
    event = worker_pb2.GenerationEvent(parked=worker_pb2.ParkedEvent(step=step))
    core.emit(found, event, now)

"""Emptying a worker: what is saved, what is finished, what is left to other workers.

Whatever the policy, every running generation is saved first, at its next boundary: should the
worker have less time than it was told, nothing but the steps since then is lost. Then those
go on that will be done in time. The others stand still at a boundary, are saved right there,
and only then handed over: no step is lost.
"""

import dataclasses

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import generation, instructions, lives, stimuli
from kubediffusion_worker.generation import Generation, Phase

RESERVE_SECONDS = 5.0
"""Before the end of the budget, in which what is not done is saved and fetched; at most half
of the budget, and longer by a step where steps are long."""

_FIRST_STEPS = 3
"""Steps from which their times tell how long the rest takes; the first hold a warm-up."""


def drain_asked(core: lives.Lives, stimulus: stimuli.DrainAsked) -> None:
    """Begin to empty the worker, or go about it faster."""
    is_new = core.drain is None
    core.drain = _drain(core.drain, stimulus)
    if core.worker_state != worker_pb2.WORKER_STATE_FAILED:
        core.worker_state = worker_pb2.WORKER_STATE_DRAINING
    for found in list(core.live.values()):
        if found.phase is not Phase.ENCODING and found.started_at is None:
            core.hand_over(found, stimulus.now)
        elif is_new and found.phase in generation.ON_THREAD:
            core.say(instructions.Capture(run=found.run))


def _drain(before: lives.Drain | None, asked: stimuli.DrainAsked) -> lives.Drain:
    if before is None:
        return lives.Drain(
            began_at=asked.now, until=asked.until, policy=asked.policy, is_exit=asked.is_exit
        )
    return dataclasses.replace(
        before,
        until=min(before.until, asked.until),
        policy=asked.policy,
        is_exit=before.is_exit or asked.is_exit,
    )


def undrain_asked(core: lives.Lives, stimulus: stimuli.UndrainAsked) -> None:
    """Serve again, and let go on what stands still to be handed over.

    Raises:
        WorkerDrainingError: The worker is about to end.
    """
    if core.drain is None:
        return
    if core.drain.is_exit:
        raise errors.WorkerDrainingError(
            "this worker ends, which cannot be undone; use another one"
        )
    core.drain = None
    if core.worker_state != worker_pb2.WORKER_STATE_FAILED:
        core.worker_state = (
            worker_pb2.WORKER_STATE_SERVING if core.is_loaded else worker_pb2.WORKER_STATE_STARTING
        )
    for found in core.live.values():
        if found.is_stopping:
            found.is_stopping = False
            if not found.is_paused:
                found.parked_at = None
                core.say(instructions.Unpark(run=found.run))


def go_on(core: lives.Lives, now: float) -> None:
    """Decide anew who will be done in time; after every stimulus."""
    drain = core.drain
    if drain is None:
        return
    ahead = 0.0
    for found in sorted(core.live.values(), key=lambda each: each.eta or 0.0):
        if now >= drain.until:
            core.hand_over(found, now)
        elif found.phase in generation.ON_THREAD and not found.is_cancelling:
            needed = ahead + _needed(found)
            if _fits(drain, found, needed, now):
                ahead = needed
            else:
                _stop(core, found, now)
    _tell_when_drained(core, drain, now)


def _fits(drain: lives.Drain, found: Generation, needed: float, now: float) -> bool:
    if drain.policy == worker_pb2.DRAIN_POLICY_CHECKPOINT or found.is_paused:
        return False
    reserve = RESERVE_SECONDS + (found.progress.seconds_per_step if found.progress else 0.0)
    end = drain.until - min(reserve, (drain.until - drain.began_at) / 2)
    if drain.policy == worker_pb2.DRAIN_POLICY_FINISH:
        needed = 0.0
    return now < end and now + needed < drain.until


def _needed(found: Generation) -> float:
    """Estimate the seconds until the last step; 0 where that is not known yet."""
    is_known = len(found.step_times) >= _FIRST_STEPS
    return (found.eta or 0.0) if is_known else 0.0


def _stop(core: lives.Lives, found: Generation, now: float) -> None:
    """Let a run stand still to be saved."""
    if found.is_stopping:
        return
    found.is_stopping = True
    if found.parked_at is None:
        core.say(instructions.Park(run=found.run))
    else:
        stopped(core, found, now)


def stopped(core: lives.Lives, found: Generation, now: float) -> None:
    """Save what stands still, unless it has been saved right there."""
    if is_saved(core, found):
        core.hand_over(found, now)
    elif found.drafted_at != found.parked_at:
        core.say(instructions.Capture(run=found.run))


def is_saved(core: lives.Lives, found: Generation) -> bool:
    """Whether a generation stands still for the drain, with a checkpoint of that step."""
    newest = core.saved.newest(found.key)
    return (
        found.is_stopping
        and found.parked_at is not None
        and newest is not None
        and newest.step >= found.parked_at
    )


def _tell_when_drained(core: lives.Lives, drain: lives.Drain, now: float) -> None:
    is_over = core.is_empty or now >= drain.until
    is_draining = core.worker_state == worker_pb2.WORKER_STATE_DRAINING
    if is_draining and not drain.is_exit and is_over and not core.live and not core.runs:
        core.worker_state = worker_pb2.WORKER_STATE_DRAINED

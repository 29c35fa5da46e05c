"""What becomes of a generation from the line to its result."""

import functools

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import generation, instructions, lives, stimuli
from kubediffusion_worker.generation import Generation, Phase


def start_runs(core: lives.Lives, now: float) -> None:
    """Begin with what waits, as far as there is room."""

    def has_room(engine_id: str) -> bool:
        return not core.shelf.refusal(engine_id, lambda other: core.holds_lease(other, now))

    while len(core.encoding) < core.config.max_encoding:
        key = core.line.pop(has_room, functools.partial(_has_slot, core.config, _active(core)))
        if key is None:
            return
        _start(core, core.generations[key])


def _active(core: lives.Lives) -> list[int | None]:
    """Return the priorities of the runs that compute in turns; None: it is about to leave."""
    active: list[int | None] = []
    for run in core.runs:
        found = core.current(run)
        if found is None or found.phase is not Phase.PARKED:
            active.append(found.priority if found else None)
    return active


def _has_slot(config: lives.LifecycleConfig, active: list[int | None], priority: int) -> bool:
    """Whether a generation of a priority may begin: lower ones do not fill its slots."""
    taken = sum(other is None or other >= priority for other in active)
    return taken < config.slots and len(active) < config.max_active


def _start(core: lives.Lives, found: Generation) -> None:
    core.waiting.remove(found.work)
    found.phase, found.run = Phase.ASSIGNED, core.next_run()
    spec, found.spec = found.spec, None
    assert spec is not None, "a waiting generation has its specification"
    core.runs[found.run] = found.key
    core.say(
        instructions.Start(
            key=found.key,
            run=found.run,
            spec=spec,
            priority=found.priority,
            deadline=found.deadline,
            checkpoint=core.saved.newest(found.key),
        )
    )


def run_started(core: lives.Lives, stimulus: stimuli.RunStarted) -> None:
    """Note that the compute thread has begun with a run."""
    found = core.current(stimulus.run)
    if found is None or found.phase not in generation.ON_THREAD or found.started_at is not None:
        return
    if found.phase is Phase.ASSIGNED:
        found.phase = Phase.COMPUTING
    found.started_at = found.progress_at = stimulus.now
    started = worker_pb2.GenerationEvent(started=worker_pb2.StartedEvent())
    core.emit(found, started, stimulus.now)


def stepped(core: lives.Lives, stimulus: stimuli.Stepped) -> None:
    """Note progress; it may arrive a moment after a run stands still."""
    found = core.current(stimulus.run)
    if found is None or found.phase not in (Phase.COMPUTING, Phase.PARKED):
        return
    progress = found.take_progress(
        step=stimulus.step,
        total=stimulus.total,
        timestep=stimulus.timestep,
        seconds=stimulus.seconds,
    )
    found.progress_at = stimulus.now
    core.emit(found, worker_pb2.GenerationEvent(progress=progress), stimulus.now)


def previewed(core: lives.Lives, stimulus: stimuli.Previewed) -> None:
    """Show what a generation is about to become."""
    found = core.current(stimulus.run)
    if found is not None and found.phase in (Phase.COMPUTING, Phase.PARKED):
        core.emit(found, worker_pb2.GenerationEvent(preview=stimulus.preview), stimulus.now)


def computed(core: lives.Lives, stimulus: stimuli.Computed) -> None:
    """Have the output of a run encoded."""
    found = core.current(stimulus.run)
    if found is None or found.phase not in (Phase.COMPUTING, Phase.PARKED):
        return
    if found.is_cancelling:
        core.end_cancelled(found, stimulus.now)
        return
    found.phase = Phase.ENCODING
    found.is_paused = found.is_stopping = False
    core.encoding[stimulus.run] = found.key
    core.say(instructions.Encode(key=found.key, run=stimulus.run))


def encoded(core: lives.Lives, stimulus: stimuli.Encoded) -> None:
    """Keep a result."""
    found = core.current(stimulus.run)
    core.encoding.pop(stimulus.run, None)
    if found is None or found.phase is not Phase.ENCODING:
        return
    found.result = stimulus.result
    metrics = stimulus.result.metrics
    core.estimator.observe(
        steps=metrics.steps,
        step_seconds=metrics.step_seconds,
        total_seconds=metrics.compute_seconds,
    )
    core.say(instructions.Keep(key=found.key, run=stimulus.run))
    succeeded = worker_pb2.SucceededEvent(result=stimulus.result)
    core.end(found, worker_pb2.GenerationEvent(succeeded=succeeded), stimulus.now)


def run_failed(core: lives.Lives, stimulus: stimuli.RunFailed) -> None:
    """Let a generation end with what its run raised."""
    found = core.current(stimulus.run)
    core.encoding.pop(stimulus.run, None)
    if found is not None:
        core.end_failed(found, stimulus.error, stimulus.now)


def run_cancelled(core: lives.Lives, stimulus: stimuli.RunCancelled) -> None:
    """Let a generation end that has left the pipeline."""
    found = core.current(stimulus.run)
    if found is not None:
        core.end_cancelled(found, stimulus.now)

"""What is always true of a `lifecycle.Lifecycle`; tests check it after every stimulus."""

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import checkpoints, generation, lifecycle, parking, ring
from kubediffusion_worker.generation import Generation, Phase, State


def check(machine: lifecycle.Lifecycle) -> None:
    """Look at every part of a state machine.

    Raises:
        AssertionError: Parts contradict each other, or a bound is broken.
    """
    for found in machine.generations.values():
        _check_generation(found)
        _check_places(machine, found)
    _check_runs(machine)
    _check_checkpoints(machine)
    _check_drain(machine)
    _check_sums(machine)
    assert not set(machine.tombstones) & set(machine.generations), "released and here"


def _check_generation(found: Generation) -> None:
    events = found.events.after(0)
    assert [event.sequence for event in events] == list(
        range(found.events.first_sequence, found.events.last_sequence + 1)
    ), "sequence numbers have holes"
    assert all(not ring.is_terminal(event) for event in events[:-1]), "an event after the end"
    assert ring.is_terminal(events[-1]) == found.is_ended, "the newest event fits the phase"
    assert (found.end is not None) == found.is_ended, "an end state, exactly when it has ended"
    assert (found.run > 0) or found.phase in (Phase.WAITING, Phase.ENDED), "a run in between"
    assert not (found.is_stopping and found.phase is Phase.WAITING), "stops before it runs"
    assert not (found.is_ended and (found.is_paused or found.is_stopping)), "ended, but held"
    assert found.phase is not Phase.PARKED or found.is_paused, "parked for nobody"
    assert not (found.is_ended and found.is_acknowledged), "acknowledged, but still here"


def _check_places(machine: lifecycle.Lifecycle, found: Generation) -> None:
    key, phase = found.key, found.phase
    assert (key in machine.line) == (phase is Phase.WAITING), "in line, exactly while waiting"
    assert (key in machine.live) == (phase is not Phase.ENDED), "live, exactly until its end"
    assert (key in machine.shelf) == (phase is Phase.ENDED), "on the shelf, exactly after"
    assert (found.spec is not None) == (phase is Phase.WAITING), "a specification while waiting"
    holds_slot = machine.runs.get(found.run) == key
    assert holds_slot or phase not in generation.ON_THREAD, "runs without a slot"
    assert phase is not Phase.ENCODING or found.run in machine.encoding, "encodes unseen"


def _check_runs(machine: lifecycle.Lifecycle) -> None:
    config = machine.config
    assert len(machine.runs) <= config.max_runs, "more runs than slots"
    assert parking.count_parked(machine) <= config.max_parked, "too many stand still"
    # Runs in the slots may still add theirs when the encoders are behind.
    most = config.max_encoding + config.max_runs - 1
    assert len(machine.encoding) <= most, "too many outputs wait for their encoding"


def _check_checkpoints(machine: lifecycle.Lifecycle) -> None:
    saved = machine.saved
    assert saved.bytes <= machine.config.checkpoint_limits.max_bytes, "too many bytes are saved"
    assert saved.bytes == sum(info.size for key in saved for info in saved.of(key)), "miscounted"
    for key in saved:
        steps = [info.step for info in saved.of(key)]
        assert 0 < len(steps) <= checkpoints.KEPT, "the newest two are kept"
        assert len(set(steps)) == len(steps), "a step is kept twice"
        end = machine.generations[key].end
        assert end in (None, State.HANDED_OVER, State.FAILED), "saved for nobody"
        assert end is None or len(steps) == 1, "one is enough to go on from"


def _check_drain(machine: lifecycle.Lifecycle) -> None:
    drain, state = machine.drain, machine.worker_state
    is_draining = state in (worker_pb2.WORKER_STATE_DRAINING, worker_pb2.WORKER_STATE_DRAINED)
    assert (drain is not None) == is_draining or state == worker_pb2.WORKER_STATE_FAILED
    if drain is None:
        assert not any(found.is_stopping for found in machine.live.values()), "stops for nothing"
    else:
        assert not machine.line, "something waits for a worker that drains"
    if state == worker_pb2.WORKER_STATE_DRAINED:
        assert not machine.live, "drained, but not empty"
        assert not machine.runs, "drained, but not idle"


def _check_sums(machine: lifecycle.Lifecycle) -> None:
    config = machine.config
    ended = [found for found in machine.generations.values() if found.is_ended]
    kept = sum(found.result.size for found in ended if found.result)
    assert machine.shelf.bytes == kept, "retained bytes are counted wrongly"
    assert len(machine.shelf) == len(ended), "something else is on the shelf"
    assert len(machine.line) == len(list(machine.line)), "the line lost its count"
    assert len(machine.line) <= config.line_limits.max_items, "the line is too long"
    assert machine.waiting.count == len(machine.line), "the work in line is counted wrongly"
    specs = [found.spec for found in machine.generations.values() if found.spec]
    assert machine.line.size == sum(spec.ByteSize() for spec in specs), "the line lost bytes"
    limits = config.retention_limits
    assert len(machine.tombstones) <= limits.max_tombstones, "too many tombstones"

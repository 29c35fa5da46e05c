"""How the state machine pauses, saves and resumes generations."""

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import checkpoints, instructions, stimuli
from kubediffusion_worker.generation import State
from machines import a_machine, checkpoint, config


def started_runs(machine: object) -> list[str]:
    told = machine.told(instructions.Start)  # type: ignore[attr-defined] # a Machine
    return [start.key.request_id for start in told]


def test_a_generation_stands_still_from_its_next_boundary_until_it_goes_on() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.pause("a")
    assert machine["a"].state is State.RUNNING
    machine.parked(run, 2)
    assert machine["a"].state is State.PARKED
    machine.unpause("a")
    assert machine["a"].state is State.RUNNING
    machine.run_to_end("a")
    assert machine.events("a") == ["queued", "started", "parked", "unpaused", "succeeded"]


def test_what_stands_still_holds_no_slot() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("b")
    run = machine.started("a")
    machine.pause("a")
    assert started_runs(machine) == ["a"]
    machine.parked(run, 2)
    assert started_runs(machine) == ["a", "b"]


def test_no_more_stand_still_than_there_is_memory_for() -> None:
    machine = a_machine(config(slots=2, max_parked=1))
    machine.submit("a")
    machine.submit("b")
    machine.pause("a")
    machine.pause("b")
    assert isinstance(machine.refused, errors.NotResumableError)
    machine.pause("a")
    assert machine.refused is None


def test_a_waiting_generation_that_is_paused_lets_others_pass() -> None:
    machine = a_machine()
    machine.submit("running")
    machine.submit("a")
    machine.submit("b")
    machine.pause("a")
    assert machine["a"].state is State.PARKED
    machine.run_to_end("running")
    machine.run_to_end("b")
    assert started_runs(machine) == ["running", "b"]
    machine.unpause("a")
    assert started_runs(machine) == ["running", "b", "a"]
    assert machine.events("a") == ["queued", "parked", "unpaused"]


def test_a_pause_that_was_taken_back_before_the_boundary_is_not_told() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.pause("a")
    machine.unpause("a")
    machine.parked(run, 2)
    assert machine["a"].state is State.RUNNING
    assert machine.events("a") == ["queued", "started"]
    assert [item.run for item in machine.told(instructions.Unpark)] == [run]


def test_pausing_and_going_on_twice_is_as_once() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    for _ in range(2):
        machine.pause("a")
        machine.parked(run, 2)
    for _ in range(2):
        machine.unpause("a")
    assert machine.events("a") == ["queued", "started", "parked", "unpaused"]


@pytest.mark.parametrize("act", ["pause", "ask_checkpoint"])
def test_what_takes_no_more_steps_neither_stands_still_nor_is_saved(act: str) -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.computed(run)
    getattr(machine, act)("a")
    assert isinstance(machine.refused, errors.NotResumableError)
    machine.encoded(run)
    getattr(machine, act)("a")
    assert isinstance(machine.refused, errors.NotResumableError)
    getattr(machine, act)("unknown")
    assert isinstance(machine.refused, errors.GenerationNotFoundError)


def test_a_deadline_ends_what_stands_still() -> None:
    machine = a_machine()
    machine.submit("a", deadline=machine.now + 5)
    run = machine.started("a")
    machine.pause("a")
    machine.parked(run, 2)
    machine.tick(5.0)
    assert machine["a"].state is State.FAILED
    assert [item.run for item in machine.told(instructions.RaiseCancel)] == [run]


def test_what_stands_still_is_cancelled_when_it_has_left_the_pipeline() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.pause("a")
    machine.parked(run, 2)
    machine.cancel("a")
    assert machine["a"].state is State.PARKED
    machine.handle(stimuli.RunCancelled(now=machine.now, run=run))
    assert machine["a"].state is State.CANCELLED


def test_what_has_not_begun_is_cancelled_at_once_although_it_has_a_slot() -> None:
    machine = a_machine(config(slots=2))
    machine.submit("a")
    machine.cancel("a")
    assert machine["a"].state is State.CANCELLED
    assert len(machine.told(instructions.RaiseCancel)) == 1


def test_lower_priorities_fill_no_slots_of_higher_ones() -> None:
    machine = a_machine(config(slots=2))
    for name, priority in (("a", 0), ("b", 0), ("c", 0), ("urgent", 1), ("low", -1)):
        machine.submit(name, priority=priority)
    assert started_runs(machine) == ["a", "b", "urgent"]
    for name in ("u2", "u3", "u4"):
        machine.submit(name, priority=2)
    assert started_runs(machine) == ["a", "b", "urgent", "u2"]  # Twice the slots, no more.


def test_a_checkpoint_is_told_of_when_it_is_stored() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.ask_checkpoint("a")
    assert [item.run for item in machine.told(instructions.Capture)] == [run]
    machine.captured(run, 2)
    assert machine.events("a") == ["queued", "started"]
    machine.stored(run, 2, size=7)
    (event,) = [e for e in machine["a"].events.after(0) if e.HasField("checkpointed")]
    assert (event.checkpointed.step, event.checkpointed.size) == (2, 7)
    assert machine.core.load(machine.now).retained_bytes == 7


def test_a_checkpoint_of_what_has_ended_is_not_kept() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.captured(run, 2)
    machine.computed(run)
    machine.stored(run, 2)
    assert machine.told(instructions.KeepCheckpoint) == []
    assert "checkpointed" not in machine.events("a")


def test_a_run_goes_on_from_what_came_with_its_request() -> None:
    machine = a_machine()
    machine.submit("a", attempt=2, checkpoint=checkpoint(5))
    (start,) = machine.told(instructions.Start)
    assert start.checkpoint == checkpoint(5)
    run = machine.started("a")
    exact = worker_pb2.EXACTNESS_EXACT
    machine.handle(stimuli.Resumed(now=machine.now, run=run, step=5, exactness=exact))
    assert machine.events("a") == ["queued", "started", "resumed"]


def test_a_checkpoint_that_a_run_could_not_go_on_from_is_dropped() -> None:
    machine = a_machine()
    machine.submit("a", attempt=2, checkpoint=checkpoint(5))
    run = machine.started("a")
    anew = worker_pb2.EXACTNESS_RESTARTED
    machine.handle(stimuli.Resumed(now=machine.now, run=run, step=0, exactness=anew))
    assert [item.step for item in machine.told(instructions.DropCheckpoint)] == [5]
    machine.save(run, 2)
    assert machine.core.saved.newest(machine["a"].key) == checkpoint(2)


def test_a_request_whose_checkpoint_has_no_room_is_refused() -> None:
    machine = a_machine(config(saved=checkpoints.CheckpointLimits(max_bytes=5)))
    machine.submit("a", checkpoint=checkpoint(5))
    assert isinstance(machine.refused, errors.RetentionFullError)
    assert machine.core.generations == {}

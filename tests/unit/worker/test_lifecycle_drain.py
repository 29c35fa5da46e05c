"""How the state machine empties a worker: what is saved, finished, left to others."""

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import instructions, lifecycle, stimuli
from kubediffusion_worker.generation import State
from machines import Machine, a_machine, checkpoint, config

ANY_POLICY = pytest.mark.parametrize("policy", ["FINISH", "CHECKPOINT", "FINISH_THEN_CHECKPOINT"])


def captures(machine: Machine) -> list[int]:
    return [item.run for item in machine.told(instructions.Capture)]


def parks(machine: Machine) -> list[int]:
    return [item.run for item in machine.told(instructions.Park)]


def running(machine: Machine, request_id: str = "a", *, steps: int = 3, total: int = 100) -> int:
    machine.submit(request_id)
    run = machine.started(request_id)
    for step in range(1, steps + 1):
        machine.step(run, step, total=total)
    return run


def handed_over(machine: Machine, request_id: str = "a") -> worker_pb2.HandedOverEvent:
    newest = machine[request_id].events.newest
    assert newest is not None
    assert newest.HasField("handed_over")
    return newest.handed_over


@ANY_POLICY
def test_what_runs_is_saved_first_whatever_the_policy(policy: str) -> None:
    machine = a_machine()
    run = running(machine, total=5)
    machine.drain(60.0, policy)
    assert captures(machine) == [run]


@ANY_POLICY
def test_what_waits_is_handed_over_at_once_whatever_the_policy(policy: str) -> None:
    machine = a_machine()
    running(machine)
    machine.submit("waiting")
    machine.drain(60.0, policy)
    assert machine["waiting"].state is State.HANDED_OVER


def test_what_will_be_done_in_time_goes_on() -> None:
    machine = a_machine()
    run = running(machine, total=10)
    machine.drain(60.0)
    machine.save(run, 4)
    assert parks(machine) == []
    machine.computed(run)
    machine.encoded(run)
    assert machine["a"].state is State.SUCCEEDED


def test_what_will_not_be_done_in_time_is_handed_over_at_its_last_step() -> None:
    machine = a_machine()
    run = running(machine)
    machine.drain(60.0)
    assert parks(machine) == [run]
    machine.save(run, 4)  # The one that comes first of all.
    machine.step(run, 5, total=100)
    machine.parked(run, 5)
    assert machine["a"].state is State.RUNNING
    machine.save(run, 5)
    assert handed_over(machine).checkpoint == checkpoint(5)


def test_what_was_saved_where_it_stands_still_is_not_saved_twice() -> None:
    machine = a_machine()
    run = running(machine)
    machine.drain(60.0)
    machine.captured(run, 4)
    machine.parked(run, 4)
    assert len(captures(machine)) == 1
    machine.stored(run, 4)
    assert handed_over(machine).checkpoint.step == 4


def test_everything_stands_still_at_once_where_checkpoints_are_the_policy() -> None:
    machine = a_machine()
    run = running(machine, total=4)
    machine.drain(3600.0, "CHECKPOINT")
    assert parks(machine) == [run]


def test_a_slow_generation_is_finished_where_that_is_the_policy() -> None:
    machine = a_machine()
    running(machine)
    machine.drain(60.0, "FINISH")
    assert parks(machine) == []
    machine.tick(54.0)  # Up to the reserve: the step that it may take, and five seconds.
    assert len(parks(machine)) == 1


def test_those_that_fit_together_are_finished_and_the_others_handed_over() -> None:
    machine = a_machine(config(slots=3))
    running(machine, "short", total=13)
    running(machine, "middle", total=23)
    long = running(machine, "long", total=43)
    machine.drain(40.0)
    assert parks(machine) == [long]


def test_a_generation_of_unknown_length_goes_on_until_the_reserve() -> None:
    machine = a_machine()
    run = running(machine, total=0)
    machine.drain(60.0)
    assert parks(machine) == []
    machine.save(run, 4)
    machine.tick(55.0)
    machine.parked(run, 9)
    machine.save(run, 9)
    assert handed_over(machine).checkpoint.step == 9


def test_what_reaches_no_boundary_is_handed_over_with_what_there_is() -> None:
    machine = a_machine()
    run = running(machine)
    machine.save(run, 3)
    machine.drain(30.0)
    machine.tick(30.0)
    assert handed_over(machine).checkpoint.step == 3


def test_what_cannot_be_saved_is_handed_over_all_the_same() -> None:
    machine = a_machine()
    run = running(machine)
    machine.drain(30.0)
    machine.not_saved(run)
    assert machine["a"].state is State.RUNNING
    machine.parked(run, 4)
    machine.not_saved(run)
    assert not handed_over(machine).HasField("checkpoint")


def test_what_stands_still_for_a_caller_is_saved_and_handed_over() -> None:
    machine = a_machine()
    run = running(machine, total=4)
    machine.pause("a")
    machine.parked(run, 3)
    machine.drain(3600.0, "FINISH")
    machine.save(run, 3)
    assert handed_over(machine).checkpoint.step == 3


def test_what_came_with_a_checkpoint_and_has_not_begun_keeps_it() -> None:
    machine = a_machine()
    running(machine)
    machine.submit("b", checkpoint=checkpoint(30))
    machine.drain(60.0)
    assert handed_over(machine, "b").checkpoint.step == 30


def test_only_the_newest_checkpoint_is_kept_after_handing_over_until_acknowledged() -> None:
    machine = a_machine()
    run = running(machine)
    machine.save(run, 2)
    machine.save(run, 3)
    machine.drain(0.0)
    assert [info.step for info in machine.core.saved.of(machine["a"].key)] == [3]
    assert not machine.core.is_empty
    machine.acknowledge("a")
    assert machine.core.saved.bytes == 0
    assert machine.core.is_empty


def test_a_worker_is_drained_when_everything_has_been_fetched() -> None:
    machine = a_machine()
    run = running(machine, total=4)
    machine.drain(60.0)
    machine.computed(run)
    machine.encoded(run)
    assert machine.core.worker_state == worker_pb2.WORKER_STATE_DRAINING
    machine.acknowledge("a")
    assert machine.core.worker_state == worker_pb2.WORKER_STATE_DRAINED
    machine.submit("b")
    assert isinstance(machine.refused, errors.WorkerDrainingError)


def test_a_worker_is_drained_when_its_budget_is_over_and_its_thread_free() -> None:
    machine = a_machine()
    run = running(machine)
    machine.drain(10.0)
    machine.tick(10.0)
    assert machine.core.worker_state == worker_pb2.WORKER_STATE_DRAINING
    machine.freed(run)
    assert machine.core.worker_state == worker_pb2.WORKER_STATE_DRAINED


def test_a_worker_that_ends_is_never_drained() -> None:
    machine = a_machine()
    machine.drain(10.0, is_exit=True)
    assert machine.core.worker_state == worker_pb2.WORKER_STATE_DRAINING
    machine.undrain()
    assert isinstance(machine.refused, errors.WorkerDrainingError)


def test_an_undrained_worker_serves_again() -> None:
    machine = a_machine()
    machine.drain(10.0)
    machine.undrain()
    machine.submit("a")
    assert machine.refused is None
    assert machine.core.worker_state == worker_pb2.WORKER_STATE_SERVING


def test_a_worker_that_loads_while_it_drains_serves_after_an_undrain() -> None:
    machine = Machine(lifecycle.Lifecycle(config()))
    machine.drain(10.0)
    machine.undrain()
    assert machine.core.worker_state == worker_pb2.WORKER_STATE_STARTING
    machine.drain(10.0)
    machine.handle(stimuli.ModelLoaded(now=machine.now))
    machine.undrain()
    assert machine.core.worker_state == worker_pb2.WORKER_STATE_SERVING


def test_what_stands_still_to_be_handed_over_goes_on_after_an_undrain() -> None:
    machine = a_machine()
    run = running(machine)
    machine.drain(60.0)
    machine.parked(run, 4)
    machine.undrain()
    assert [item.run for item in machine.told(instructions.Unpark)] == [run]
    machine.save(run, 4)
    assert machine["a"].state is State.RUNNING


def test_what_a_caller_paused_stays_so_after_an_undrain() -> None:
    machine = a_machine()
    run = running(machine)
    machine.pause("a")
    machine.parked(run, 4)
    machine.drain(60.0)
    machine.undrain()
    assert machine.told(instructions.Unpark) == []
    assert machine["a"].state is State.PARKED


def test_checkpoints_of_what_a_failing_device_took_down_are_kept() -> None:
    machine = a_machine()
    run = running(machine)
    machine.save(run, 3)
    error = errors.WorkerFailedError("the device failed")
    machine.handle(stimuli.WorkerBroke(now=machine.now, error=error))
    newest = machine.core.saved.newest(machine["a"].key)
    assert newest == checkpoint(3)

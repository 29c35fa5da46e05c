import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import instructions, lifecycle, queueing, retention, stimuli
from kubediffusion_worker.generation import State
from machines import Machine, a_machine, caller, config

OBSERVER = caller(role="OBSERVER")
OPERATOR = caller(epoch=0, role="OPERATOR")


def test_a_generation_goes_from_queue_to_result() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.step(run, 1)
    machine.computed(run)
    machine.encoded(run)
    assert machine.events("a") == ["queued", "started", "progress", "succeeded"]
    assert machine["a"].state is State.SUCCEEDED
    assert [keep.run for keep in machine.told(instructions.Keep)] == [run]


def test_only_one_generation_runs_at_a_time() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("b")
    assert [start.key.request_id for start in machine.told(instructions.Start)] == ["a"]
    machine.computed(machine.started("a"))
    assert [start.key.request_id for start in machine.told(instructions.Start)] == ["a", "b"]


def test_the_slot_stays_taken_until_the_compute_thread_is_free() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("b")
    run = machine.started("a")
    machine.handle(
        stimuli.RunFailed(now=machine.now, run=run, error=errors.PipelineError("it raised"))
    )
    assert len(machine.told(instructions.Start)) == 1
    machine.freed(run)
    assert len(machine.told(instructions.Start)) == 2


def test_no_run_starts_while_too_many_outputs_wait_for_their_encoding() -> None:
    machine = a_machine(config(max_encoding=1))
    machine.submit("a")
    machine.submit("b")
    first = machine.started("a")
    machine.computed(first)
    assert len(machine.told(instructions.Start)) == 1
    machine.encoded(first)
    assert len(machine.told(instructions.Start)) == 2


def test_the_same_request_again_is_the_same_generation() -> None:
    machine = a_machine()
    machine.submit("a")
    before = machine["a"]
    assert machine.submit("a") == []
    assert machine["a"] is before
    machine.run_to_end("a")
    assert machine.submit("a") == []


def test_other_content_under_a_used_id_is_refused() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("a", prompt="other")
    assert isinstance(machine.refused, errors.RequestConflictError)


def test_the_same_id_of_another_engine_is_another_generation() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("a", by=caller("other"), prompt="other")
    assert machine.refused is None
    assert len(machine.core.generations) == 2


def test_an_acknowledged_id_is_refused() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a")
    machine.acknowledge("a")
    machine.submit("a")
    assert isinstance(machine.refused, errors.AlreadyAcknowledgedError)


def test_a_higher_attempt_by_a_newer_epoch_is_the_same_generation() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("a", attempt=2, by=caller(epoch=2))
    assert machine.refused is None
    assert machine["a"].attempt == 2
    assert len(machine.told(instructions.Start)) == 1


def test_work_is_refused_before_the_model_is_loaded() -> None:
    machine = Machine(lifecycle.Lifecycle(config()))
    machine.submit("a")
    assert isinstance(machine.refused, errors.WorkerStartingError)
    assert machine.refused.retry_delay is not None


def test_a_full_queue_says_when_to_try_again() -> None:
    machine = a_machine(config(line=queueing.LineLimits(max_items=1)))
    machine.submit("running")
    machine.submit("waiting")
    machine.submit("too many")
    assert isinstance(machine.refused, errors.QueueFullError)
    assert machine.refused.retry_delay == pytest.approx(2.0, abs=1.5)
    assert len(machine.core.generations) == 2


def test_a_known_generation_is_answered_although_the_queue_is_full() -> None:
    machine = a_machine(config(line=queueing.LineLimits(max_items=1)))
    machine.submit("running")
    machine.submit("waiting")
    machine.submit("waiting")
    assert machine.refused is None


def test_work_is_refused_rather_than_results_of_a_living_engine_evicted() -> None:
    machine = a_machine(config(kept=retention.RetentionLimits(max_bytes=10)))
    machine.watch(1)
    machine.submit("a")
    machine.run_to_end("a")
    machine.submit("b")
    assert isinstance(machine.refused, errors.RetentionFullError)
    machine.acknowledge("a")
    machine.submit("b")
    assert machine.refused is None


def test_accepted_work_waits_while_there_is_no_room_for_its_result() -> None:
    machine = a_machine(config(kept=retention.RetentionLimits(max_bytes=10)))
    machine.watch(1)
    for name in ("a", "b", "c"):
        machine.submit(name)
    machine.run_to_end("a")  # "b" started when "a" left the compute thread.
    machine.run_to_end("b")
    assert len(machine.told(instructions.Start)) == 2
    machine.acknowledge("a")
    machine.acknowledge("b")
    assert len(machine.told(instructions.Start)) == 3


def test_results_of_an_engine_that_left_give_way() -> None:
    machine = a_machine(config(kept=retention.RetentionLimits(max_bytes=10)))
    machine.watch(1)
    machine.submit("a")
    machine.run_to_end("a")
    machine.unwatch(1)
    machine.now += 61.0
    machine.submit("b")
    machine.run_to_end("b")
    assert [free.key.request_id for free in machine.told(instructions.Free)] == ["a"]
    machine.cancel("a")
    assert isinstance(machine.refused, errors.EvictedError)


def test_an_evicted_generation_is_computed_again_only_as_a_new_attempt() -> None:
    machine = a_machine(config(kept=retention.RetentionLimits(max_bytes=10)))
    for name in ("a", "b"):
        machine.submit(name)
        machine.run_to_end(name)
    machine.submit("a")
    assert isinstance(machine.refused, errors.EvictedError)
    machine.submit("a", attempt=2)
    assert machine.refused is None
    assert machine["a"].events.after(0)[0].sequence == 4  # Numbers of an incarnation go on.


def test_what_ended_without_a_result_is_computed_again_as_a_new_attempt() -> None:
    machine = a_machine()
    machine.submit("running")
    machine.submit("a")
    machine.cancel("a")
    machine.acknowledge("a")
    machine.submit("a")
    assert isinstance(machine.refused, errors.AlreadyAcknowledgedError)
    machine.submit("a", attempt=2)
    assert machine.refused is None
    assert machine["a"].state is State.QUEUED


def test_a_delivered_result_is_never_computed_again() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a")
    machine.acknowledge("a")
    machine.submit("a", attempt=2)
    assert isinstance(machine.refused, errors.AlreadyAcknowledgedError)


def test_results_that_nobody_wants_are_dropped_when_old() -> None:
    machine = a_machine(config(kept=retention.RetentionLimits(max_age=100.0)))
    machine.submit("a")
    machine.run_to_end("a")
    machine.tick(101.0)
    assert [free.is_evicted for free in machine.told(instructions.Free)] == [True]


def test_a_waiting_generation_is_cancelled_at_once() -> None:
    machine = a_machine()
    machine.submit("running")
    machine.submit("waiting")
    machine.cancel("waiting")
    assert machine["waiting"].state is State.CANCELLED
    assert machine.events("waiting") == ["queued", "cancelled"]


def test_a_running_generation_is_cancelled_when_it_has_left_the_pipeline() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.step(run, 1)
    machine.cancel("a")
    machine.cancel("a")
    assert [item.run for item in machine.told(instructions.RaiseCancel)] == [run]
    assert machine["a"].state is State.RUNNING
    machine.handle(stimuli.RunCancelled(now=machine.now, run=run))
    assert machine["a"].state is State.CANCELLED
    assert machine.told(instructions.Emit)[-1].event.cancelled.step == 1


def test_a_cancel_counts_although_the_pipeline_came_to_its_end() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.cancel("a")
    machine.computed(run)
    assert machine["a"].state is State.CANCELLED
    assert machine.told(instructions.Encode) == []


def test_a_cancel_during_encoding_drops_the_output() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.computed(run)
    machine.cancel("a")
    assert machine["a"].state is State.CANCELLED
    machine.encoded(run)
    assert machine.told(instructions.Keep) == []
    assert machine.core.encoding == {}


def test_cancelling_what_has_ended_changes_nothing() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a")
    machine.cancel("a")
    assert machine["a"].state is State.SUCCEEDED
    assert machine.refused is None


def test_an_unknown_generation_cannot_be_cancelled() -> None:
    machine = a_machine()
    machine.cancel("a")
    assert isinstance(machine.refused, errors.GenerationNotFoundError)


def test_an_error_of_the_pipeline_ends_its_generation_alone() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("b")
    run = machine.started("a")
    error = errors.PipelineError("RuntimeError: shapes differ")
    machine.handle(stimuli.RunFailed(now=machine.now, run=run, error=error))
    machine.freed(run)
    assert machine["a"].error is error
    assert machine.told(instructions.Emit)[-1].event.failed.error.reason == "PIPELINE_ERROR"
    machine.run_to_end("b")
    assert machine["b"].state is State.SUCCEEDED


def test_acknowledging_frees_and_leaves_a_tombstone() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a")
    machine.acknowledge("a")
    machine.acknowledge("a")
    assert machine.refused is None
    assert len(machine.told(instructions.Free)) == 1
    assert len(machine.core.tombstones) == 1
    assert machine.core.shelf.bytes == 0


def test_acknowledging_what_still_runs_ends_it_and_then_frees_it() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.acknowledge("a")
    assert machine.told(instructions.Free) == []
    machine.handle(stimuli.RunCancelled(now=machine.now, run=run))
    machine.freed(run)
    assert machine.events("a") == ["queued", "started", "cancelled"]
    assert len(machine.told(instructions.Free)) == 1


def test_a_deadline_ends_a_waiting_generation() -> None:
    machine = a_machine()
    machine.submit("running")
    machine.submit("late", deadline=machine.now + 5)
    machine.tick(5.0)
    assert isinstance(machine["late"].error, errors.DeadlineExceededError)


def test_a_deadline_ends_a_running_generation_and_stops_its_run() -> None:
    machine = a_machine()
    machine.submit("late", deadline=machine.now + 5)
    run = machine.started("late")
    machine.tick(5.0)
    assert [item.run for item in machine.told(instructions.RaiseCancel)] == [run]
    assert machine["late"].state is State.FAILED
    machine.handle(stimuli.RunCancelled(now=machine.now, run=run))
    assert machine.events("late") == ["queued", "started", "failed"]


def test_a_deadline_that_has_passed_is_refused() -> None:
    machine = a_machine()
    machine.submit("late", deadline=machine.now)
    assert isinstance(machine.refused, errors.DeadlineExceededError)


def test_writes_of_a_stale_epoch_are_refused() -> None:
    machine = a_machine()
    machine.submit("a", by=caller(epoch=2))
    for write in (machine.submit, machine.cancel, machine.acknowledge):
        write("a", by=caller(epoch=1))
        assert isinstance(machine.refused, errors.StaleEpochError)
    assert machine["a"].is_cancelling is False


def test_a_newer_epoch_ends_the_watch_of_the_older_one() -> None:
    machine = a_machine()
    machine.watch(7, by=caller(epoch=1))
    machine.submit("a", by=caller(epoch=2))
    (ended,) = machine.told(instructions.EndWatch)
    assert ended.watch == 7
    assert isinstance(ended.error, errors.StaleEpochError)


def test_a_newer_epoch_ends_the_older_watch_although_its_own_write_is_refused() -> None:
    machine = a_machine()
    machine.watch(7, by=caller(epoch=1))
    machine.cancel("unknown", by=caller(epoch=2))
    assert isinstance(machine.refused, errors.GenerationNotFoundError)
    assert len(machine.told(instructions.EndWatch)) == 1


def test_an_operator_cancels_without_fencing_the_owner() -> None:
    machine = a_machine()
    machine.submit("a", by=caller(epoch=3))
    machine.cancel("a", by=OPERATOR)
    assert machine.refused is None
    assert machine["a"].is_cancelling
    machine.submit("b", by=caller(epoch=3))
    assert machine.refused is None


@pytest.mark.parametrize("who", [OBSERVER, OPERATOR], ids=["observer", "operator"])
def test_only_an_engine_submits_and_acknowledges(who: object) -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("b", by=who)  # type: ignore[arg-type] # pytest's parameters are objects
    assert isinstance(machine.refused, errors.MethodNotAllowedError)
    machine.acknowledge("a", by=who)  # type: ignore[arg-type] # likewise
    assert isinstance(machine.refused, errors.MethodNotAllowedError)


def test_orphans_are_finished_and_kept_by_default() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.tick(1e6)
    assert machine["a"].state is State.QUEUED
    assert not machine["a"].is_cancelling


def test_orphans_are_cancelled_where_that_is_wanted() -> None:
    machine = a_machine(config(orphan_cancel_seconds=10.0))
    machine.watch(1)
    machine.submit("a")
    machine.unwatch(1)
    machine.tick(69.0)
    assert not machine["a"].is_cancelling
    machine.tick(1.0)
    assert machine["a"].is_cancelling


def test_a_drain_hands_over_what_waits_and_finishes_what_runs() -> None:
    machine = a_machine()
    machine.submit("running")
    machine.submit("waiting")
    run = machine.started("running")
    machine.drain(30.0)
    assert machine["waiting"].state is State.HANDED_OVER
    machine.submit("new")
    assert isinstance(machine.refused, errors.WorkerDrainingError)
    machine.computed(run)
    machine.encoded(run)
    assert machine["running"].state is State.SUCCEEDED
    assert not machine.core.is_empty
    machine.acknowledge("running")
    assert machine.core.is_empty


def test_a_drain_hands_over_what_will_not_be_done_in_time() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    for step in (1, 2, 3):
        machine.step(run, step, total=100)
    machine.drain(30.0)
    assert machine["a"].state is State.RUNNING
    machine.parked(run, 4)
    machine.save(run, 4)
    assert machine["a"].state is State.HANDED_OVER
    assert [item.run for item in machine.told(instructions.RaiseCancel)] == [run]


def test_a_drain_hands_over_what_is_not_done_when_its_time_is_over() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.started("a")
    machine.drain(30.0)
    machine.tick(29.0)
    assert machine["a"].state is State.RUNNING
    machine.tick(1.0)
    assert machine["a"].state is State.HANDED_OVER


def test_a_second_drain_shortens_the_first_and_never_prolongs_it() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.started("a")
    machine.drain(30.0)
    machine.drain(60.0)
    assert machine.core.drain_until == machine.now + 30.0
    machine.drain(0.0)
    assert machine["a"].state is State.HANDED_OVER


def test_a_cancelled_generation_is_not_handed_over() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.started("a")
    machine.cancel("a")
    machine.drain(0.0)
    assert machine["a"].state is State.CANCELLED


def test_a_broken_device_ends_everything() -> None:
    machine = a_machine()
    machine.submit("running")
    machine.submit("waiting")
    machine.started("running")
    error = errors.WorkerFailedError("the device failed")
    machine.handle(stimuli.WorkerBroke(now=machine.now, error=error))
    assert machine["running"].error is error
    assert machine["waiting"].state is State.HANDED_OVER
    machine.submit("new")
    assert isinstance(machine.refused, errors.WorkerFailedError)


def test_reports_of_runs_that_were_given_up_are_ignored() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.drain(0.0)
    machine.step(run, 1)
    machine.computed(run)
    machine.encoded(run)
    assert machine.events("a") == ["queued", "started", "handed_over"]


def test_progress_tells_pace_and_remaining_time() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    machine.step(run, 1, total=10, seconds=9.0)
    machine.step(run, 2, total=10, seconds=1.0)
    machine.step(run, 3, total=10, seconds=1.0)
    progress = machine["a"].progress
    assert progress is not None
    assert (progress.seconds_per_step, progress.eta_seconds) == (1.0, 7.0)


def test_an_unknown_total_gives_no_remaining_time() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.step(machine.started("a"), 1, total=0)
    progress = machine["a"].progress
    assert progress is not None
    assert progress.eta_seconds < 0
    assert machine["a"].eta is None


def test_the_load_tells_the_work_ahead() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a")
    machine.submit("b", steps=4)
    machine.submit("c", steps=4)
    load = machine.core.load(machine.now)
    assert (load.slots, load.running, load.queued) == (1, 1, 1)
    assert load.queued_seconds == pytest.approx(10.0)
    assert load.retained_bytes == 10


def test_the_specification_is_let_go_of_when_the_run_starts() -> None:
    machine = a_machine()
    machine.submit("a", prompt="a long text")
    (start,) = machine.told(instructions.Start)
    assert start.spec == worker_pb2.GenerationSpec(prompt="a long text")
    assert machine["a"].spec is None

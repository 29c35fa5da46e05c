"""What a tracker says in the situations that matter, one by one."""

import pytest

from kubediffusion import _instructions, _stimuli, errors
from kubediffusion._stimuli import Ending, Seat
from kubediffusion._tracker import Phase, Tracker

A = Seat("a", "a1")
B = Seat("b", "b1")


def running(seat: Seat = A, **options: object) -> Tracker:
    tracker = Tracker(**options)  # type: ignore[arg-type]  # names of fields
    tracker.handle(_stimuli.Assigned(seat))
    tracker.handle(_stimuli.Accepted(seat))
    return tracker


def moved() -> Tracker:
    """It ran at A, which was out of reach for too long, and now runs at B."""
    tracker = running(A)
    tracker.handle(_stimuli.Unreachable(A))
    tracker.handle(_stimuli.Assigned(B))
    tracker.handle(_stimuli.Accepted(B))
    return tracker


def kinds(instructions: tuple[_instructions.Instruction, ...]) -> list[str]:
    return [type(each).__name__ for each in instructions]


def test_placement_is_journaled_before_the_request_is_sent() -> None:
    told = Tracker().handle(_stimuli.Assigned(A))
    assert told == (_instructions.WritePlaced(A, 1), _instructions.Submit(A, 1))


def test_accepted_request_is_journaled() -> None:
    tracker = Tracker()
    tracker.handle(_stimuli.Assigned(A))
    assert tracker.handle(_stimuli.Accepted(A)) == (_instructions.WriteAccepted(A),)
    assert tracker.phase is Phase.RUNNING


def test_result_is_journaled_before_it_is_acknowledged_and_published() -> None:
    tracker = running()
    assert tracker.handle(_stimuli.Finished(A, Ending.SUCCEEDED)) == (_instructions.Fetch(A),)
    told = tracker.handle(_stimuli.Fetched(A))
    assert kinds(told) == ["WriteEnded", "Ack", "Publish"]


def test_lost_answer_asks_the_same_worker_and_submits_the_same_attempt() -> None:
    tracker = Tracker()
    tracker.handle(_stimuli.Assigned(A))
    assert tracker.handle(_stimuli.AnswerLost(A)) == (_instructions.Ask(A),)
    assert tracker.handle(_stimuli.Reached(A)) == (_instructions.Submit(A, 1),)


def test_lost_answer_of_a_worker_that_turns_out_to_have_it_is_an_acceptance() -> None:
    tracker = Tracker()
    tracker.handle(_stimuli.Assigned(A))
    tracker.handle(_stimuli.AnswerLost(A))
    assert tracker.handle(_stimuli.Listed(A)) == (_instructions.WriteAccepted(A),)
    assert tracker.handle(_stimuli.Reached(A)) == ()


def test_full_worker_costs_neither_an_attempt_nor_a_pause() -> None:
    tracker = Tracker()
    tracker.handle(_stimuli.Assigned(A))
    told = tracker.handle(_stimuli.Refused(A, errors.QueueFullError("full")))
    assert told == (_instructions.WriteWaiting(1, 0), _instructions.Queue(0))


def test_failed_worker_costs_a_pause() -> None:
    tracker = Tracker()
    tracker.handle(_stimuli.Assigned(A))
    told = tracker.handle(_stimuli.Refused(A, errors.WorkerFailedError("broken")))
    assert told == (_instructions.WriteWaiting(1, 0), _instructions.Queue(1))


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequestError("bad"),
        errors.RequestConflictError("taken"),
        errors.AlreadyAcknowledgedError("done"),
        errors.DeadlineExceededError("late"),
    ],
)
def test_refusal_of_the_request_itself_ends_it(error: errors.KubediffusionError) -> None:
    tracker = Tracker()
    tracker.handle(_stimuli.Assigned(A))
    told = tracker.handle(_stimuli.Refused(A, error))
    assert told == (
        _instructions.WriteEnded(Ending.FAILED, error),
        _instructions.Publish(Ending.FAILED, error),
    )


def test_dead_worker_gives_the_request_to_another_with_a_new_attempt() -> None:
    tracker = running()
    assert tracker.handle(_stimuli.Lost(A)) == (
        _instructions.WriteWaiting(2, 0),
        _instructions.Queue(0),
    )
    assert tracker.handle(_stimuli.Assigned(B))[1] == _instructions.Submit(B, 2)


def test_result_that_died_with_its_worker_is_computed_again() -> None:
    tracker = running()
    tracker.handle(_stimuli.Finished(A, Ending.SUCCEEDED))
    assert kinds(tracker.handle(_stimuli.Lost(A))) == ["WriteWaiting", "Queue"]


def test_worker_that_returns_before_a_takeover_keeps_the_request() -> None:
    tracker = running()
    tracker.handle(_stimuli.Unreachable(A))
    told = tracker.handle(_stimuli.Listed(A))
    assert kinds(told) == ["WritePlaced", "WriteAccepted"]
    assert tracker.phase is Phase.RUNNING


def test_worker_that_returns_after_a_takeover_is_told_to_cancel() -> None:
    assert moved().handle(_stimuli.Listed(A)) == (_instructions.Cancel(A),)


def test_first_result_wins_even_from_the_worker_that_was_given_up() -> None:
    tracker = moved()
    assert tracker.handle(_stimuli.Finished(A, Ending.SUCCEEDED)) == (_instructions.Fetch(A),)
    told = tracker.handle(_stimuli.Fetched(A))
    assert kinds(told) == ["WriteEnded", "Ack", "Ack", "Publish"]
    assert told[1:3] == (_instructions.Ack(A), _instructions.Ack(B))


def test_second_result_is_acknowledged_and_dropped() -> None:
    tracker = moved()
    tracker.handle(_stimuli.Finished(B, Ending.SUCCEEDED))
    assert tracker.handle(_stimuli.Finished(A, Ending.SUCCEEDED)) == ()
    assert _instructions.Ack(A) in tracker.handle(_stimuli.Fetched(B))


def test_late_result_of_an_ended_request_is_acknowledged() -> None:
    tracker = moved()
    tracker.handle(_stimuli.Finished(B, Ending.SUCCEEDED))
    tracker.handle(_stimuli.Fetched(B))
    assert tracker.handle(_stimuli.Finished(A, Ending.SUCCEEDED)) == (_instructions.Ack(A),)


def test_pipeline_error_ends_the_request() -> None:
    error = errors.PipelineError("ValueError: a shape")
    told = running().handle(_stimuli.Finished(A, Ending.FAILED, error))
    assert told == (
        _instructions.WriteEnded(Ending.FAILED, error, A),
        _instructions.Ack(A),
        _instructions.Publish(Ending.FAILED, error),
    )


def test_failure_of_the_worker_moves_the_request_and_forgets_it_there() -> None:
    error = errors.WorkerFailedError("device fault")
    told = running().handle(_stimuli.Finished(A, Ending.FAILED, error))
    assert told == (_instructions.WriteWaiting(2, 0), _instructions.Ack(A), _instructions.Queue(1))


def test_handed_over_request_goes_elsewhere() -> None:
    told = running().handle(_stimuli.HandedOver(A))
    assert told == (_instructions.WriteWaiting(2, 0), _instructions.Ack(A), _instructions.Queue(0))


def test_evicted_generation_is_computed_again() -> None:
    told = running().handle(_stimuli.Missing(A))
    assert told == (_instructions.WriteWaiting(2, 0), _instructions.Queue(1))


def test_recalled_request_that_never_arrived_keeps_its_attempt() -> None:
    tracker = Tracker(phase=Phase.RECALLED, seat=A, is_accepted=False)
    assert tracker.handle(_stimuli.Missing(A)) == (
        _instructions.WriteWaiting(1, 0),
        _instructions.Queue(1),
    )


def test_unknown_request_whose_worker_died_cannot_go_on() -> None:
    tracker = Tracker(phase=Phase.RECALLED, seat=A, is_accepted=True, can_resubmit=False)
    told = tracker.handle(_stimuli.Lost(A))
    assert kinds(told) == ["WriteEnded", "Publish"]
    assert isinstance(told[-1], _instructions.Publish)
    assert isinstance(told[-1].error, errors.WorkerGoneError)


def test_attempts_are_bounded() -> None:
    tracker = running(max_attempts=1)
    tracker.handle(_stimuli.Progressed(A, 0, 0))
    told = tracker.handle(_stimuli.Lost(A))
    assert kinds(told) == ["WriteEnded", "Publish"]


def test_losses_while_waiting_or_getting_on_do_not_count_as_attempts() -> None:
    tracker = Tracker(max_attempts=2)
    for number in range(40):
        seat = Seat("a", str(number))
        tracker.handle(_stimuli.Assigned(seat))
        tracker.handle(_stimuli.Accepted(seat))
        if number % 4 == 1:
            tracker.handle(_stimuli.Resumed(seat, number))
            tracker.handle(_stimuli.Progressed(seat, number + 1, 99))
        if number % 4 == 2:
            tracker.handle(_stimuli.HandedOver(seat))
        else:
            tracker.handle(_stimuli.Lost(seat) if number % 4 else _stimuli.Unreachable(seat))
    assert (tracker.phase, tracker.attempt) == (Phase.WAITING, 41)


def test_two_deaths_before_any_step_poison_the_request() -> None:
    tracker = running()
    tracker.handle(_stimuli.Progressed(A, 0, 0))
    tracker.handle(_stimuli.Lost(A))
    tracker.handle(_stimuli.Assigned(B))
    tracker.handle(_stimuli.Accepted(B))
    tracker.handle(_stimuli.Progressed(B, 0, 0))
    told = tracker.handle(_stimuli.Lost(B))
    assert isinstance(told[-1], _instructions.Publish)
    assert isinstance(told[-1].error, errors.PoisonedError)


def test_deaths_during_progress_never_poison() -> None:
    tracker = Tracker()
    for number in range(10):
        seat = Seat("a", str(number))
        tracker.handle(_stimuli.Assigned(seat))
        tracker.handle(_stimuli.Accepted(seat))
        tracker.handle(_stimuli.Progressed(seat, 3, 20))
        tracker.handle(_stimuli.Lost(seat))
    assert tracker.phase is Phase.WAITING


def test_deaths_in_a_queue_never_poison() -> None:
    tracker = Tracker()
    for number in range(10):
        seat = Seat("a", str(number))
        tracker.handle(_stimuli.Assigned(seat))
        tracker.handle(_stimuli.Accepted(seat))
        tracker.handle(_stimuli.Lost(seat))
    assert tracker.strikes == 0


def test_cancel_while_waiting_ends_at_once() -> None:
    told = Tracker().handle(_stimuli.CancelAsked())
    assert kinds(told) == ["WriteEnded", "Publish"]


def test_cancel_of_a_running_request_asks_its_worker() -> None:
    tracker = running()
    told = tracker.handle(_stimuli.CancelAsked())
    assert told == (_instructions.WriteCancelling(), _instructions.Cancel(A))
    told = tracker.handle(_stimuli.Finished(A, Ending.CANCELLED))
    assert kinds(told) == ["WriteEnded", "Ack", "Publish"]


def test_cancel_during_a_submit_is_sent_with_the_acceptance() -> None:
    tracker = Tracker()
    tracker.handle(_stimuli.Assigned(A))
    assert tracker.handle(_stimuli.CancelAsked()) == (_instructions.WriteCancelling(),)
    told = tracker.handle(_stimuli.Accepted(A))
    assert told == (_instructions.WriteAccepted(A), _instructions.Cancel(A))


def test_cancelled_request_of_a_dead_worker_is_not_tried_again() -> None:
    tracker = running()
    tracker.handle(_stimuli.CancelAsked())
    told = tracker.handle(_stimuli.Lost(A))
    assert isinstance(told[-1], _instructions.Publish)
    assert told[-1].ending is Ending.CANCELLED


def test_cancel_comes_too_late_for_a_result() -> None:
    tracker = running()
    tracker.handle(_stimuli.Finished(A, Ending.SUCCEEDED))
    assert tracker.handle(_stimuli.CancelAsked()) == ()
    assert kinds(tracker.handle(_stimuli.Fetched(A)))[-1] == "Publish"


def test_deadline_ends_a_waiting_request_only() -> None:
    assert kinds(Tracker().handle(_stimuli.DeadlinePassed())) == ["WriteEnded", "Publish"]
    assert running().handle(_stimuli.DeadlinePassed()) == ()


def test_checkpoint_that_is_not_here_is_fetched_before_the_acknowledgement() -> None:
    tracker = running()
    told = tracker.handle(_stimuli.HandedOver(A, is_safe=False, sha256="s"))
    assert told == (_instructions.Salvage(A, "s"),)
    told = tracker.handle(_stimuli.Salvaged(A))
    assert told == (_instructions.WriteWaiting(2, 0), _instructions.Ack(A), _instructions.Queue(0))


def test_worker_that_dies_while_it_hands_over_needs_no_acknowledgement() -> None:
    tracker = running()
    tracker.handle(_stimuli.HandedOver(A, is_safe=False))
    assert kinds(tracker.handle(_stimuli.Lost(A))) == ["WriteWaiting", "Queue"]
    assert tracker.handle(_stimuli.Salvaged(A)) == ()


def test_hand_over_of_a_cancelled_request_ends_it() -> None:
    tracker = running()
    tracker.handle(_stimuli.CancelAsked())
    told = tracker.handle(_stimuli.HandedOver(A, is_safe=False))
    assert kinds(told) == ["WriteEnded", "Ack", "Publish"]


def test_hung_worker_is_told_to_cancel_and_another_one_takes_over() -> None:
    tracker = running()
    told = tracker.handle(_stimuli.Hung(A))
    assert kinds(told) == ["Cancel", "WriteWaiting", "Queue"]
    assert tracker.handle(_stimuli.Finished(A, Ending.CANCELLED)) == (_instructions.Ack(A),)
    assert tracker.phase is Phase.WAITING


def test_cancel_that_an_earlier_start_asked_for_ends_nothing() -> None:
    tracker = Tracker(phase=Phase.WAITING, attempt=3)
    tracker.handle(_stimuli.Listed(A))
    told = tracker.handle(_stimuli.Finished(A, Ending.CANCELLED, attempt=2))
    assert kinds(told) == ["WriteWaiting", "Ack", "Queue"]


def test_step_beyond_the_checkpoint_is_progress() -> None:
    tracker = Tracker()
    for number in range(10):
        seat = Seat("a", str(number))
        tracker.handle(_stimuli.Assigned(seat))
        tracker.handle(_stimuli.Accepted(seat))
        tracker.handle(_stimuli.Resumed(seat, number))
        tracker.handle(_stimuli.Progressed(seat, number + 1, 20))
        tracker.handle(_stimuli.Lost(seat))
    assert tracker.strikes == 0


def test_paused_request_of_a_dead_worker_waits_for_its_user() -> None:
    tracker = running()
    tracker.handle(_stimuli.PauseAsked())
    assert kinds(tracker.handle(_stimuli.Lost(A))) == ["WriteWaiting"]
    told = tracker.handle(_stimuli.UnpauseAsked())
    assert kinds(told) == ["WritePaused", "Queue"]


def test_request_that_is_paused_on_its_way_is_parked_where_it_arrives() -> None:
    tracker = Tracker()
    tracker.handle(_stimuli.Assigned(A))
    tracker.handle(_stimuli.PauseAsked())
    assert _instructions.Pause(A) in tracker.handle(_stimuli.Accepted(A))


def test_deadline_that_passed_on_a_worker_ends_the_request_with_that_worker() -> None:
    tracker = running()
    tracker.handle(_stimuli.DeadlinePassed())
    told = tracker.handle(_stimuli.Lost(A))
    assert kinds(told) == ["WriteEnded", "Publish"]


def test_failure_of_a_checkpoint_drops_it_and_tries_again() -> None:
    error = errors.InvalidCheckpointError("it does not line up")
    told = running().handle(_stimuli.Finished(A, Ending.FAILED, error))
    assert kinds(told) == ["DropCheckpoint", "WriteWaiting", "Ack", "Queue"]


def test_death_while_another_generation_computed_is_no_strike() -> None:
    tracker = Tracker(max_attempts=1)
    for number in range(5):
        seat = Seat("a", str(number))
        tracker.handle(_stimuli.Assigned(seat))
        tracker.handle(_stimuli.Accepted(seat))
        tracker.handle(_stimuli.Progressed(seat, 0, 0))
        tracker.handle(_stimuli.Lost(seat, was_active=False))
    assert (tracker.strikes, tracker.phase) == (0, Phase.WAITING)

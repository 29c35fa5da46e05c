from hypothesis import given
from hypothesis import strategies as st

from kubediffusion_worker import progress

VIDEO, SOUND = 1, 2


def iterate(count: progress.StepCount, number: int, *streams: int) -> int:
    """Runs some iterations; returns how many of them counted."""
    counted = 0
    for _ in range(number):
        count.forward_started()
        counted += sum(count.step_done(stream, None) for stream in streams or (VIDEO,))
    return counted


def started(calls: int = 1) -> progress.StepCount:
    count = progress.StepCount(calls)
    count.call_started()
    return count


def test_each_iteration_is_a_step() -> None:
    count = started()
    assert iterate(count, 3) == 3
    assert count.done == 3


def test_two_forwards_of_guidance_are_one_step() -> None:
    count = started()
    count.forward_started()
    count.forward_started()
    assert count.step_done(VIDEO, None)
    assert count.done == 1


def test_two_schedulers_in_one_iteration_are_one_step() -> None:
    count = started()
    assert iterate(count, 3, VIDEO, SOUND) == 3
    assert count.done == 3


def test_one_scheduler_for_parts_of_a_picture_is_one_step() -> None:
    count = started()
    timestep = object()
    for _ in range(4):
        count.forward_started()
        count.step_done(VIDEO, timestep)
    assert count.done == 1


def test_scheduler_that_steps_without_forwards_counts_each_time() -> None:
    count = started()
    assert [count.step_done(VIDEO, None) for _ in range(3)] == [True, True, True]


def test_total_is_unknown_before_a_loop_is_measured() -> None:
    count = started()
    iterate(count, 2)
    assert count.total == 0


def test_total_is_the_length_of_the_loop() -> None:
    count = started()
    iterate(count, 1)
    count.loop_measured(20)
    assert count.total == 20


def test_total_grows_with_each_chunk_of_a_video() -> None:
    count = started()
    for _ in range(2):
        count.timesteps_set()
        iterate(count, 1)
        count.loop_measured(3)
        iterate(count, 2)
    assert (count.done, count.total) == (6, 6)


def test_total_of_several_calls_is_known_in_the_first() -> None:
    count = started(calls=3)
    iterate(count, 1)
    count.loop_measured(4)
    assert count.total == 12


def test_second_call_expects_as_many_chunks_as_the_first_had() -> None:
    count = started(calls=2)
    for _ in range(2):
        count.timesteps_set()
        iterate(count, 1)
        count.loop_measured(3)
        iterate(count, 2)
    count.call_started()
    iterate(count, 1)
    count.loop_measured(3)
    assert (count.done, count.total) == (7, 12)


def test_schedulers_of_one_loop_are_set_up_without_ending_it() -> None:
    count = started()
    assert [count.timesteps_set(), count.timesteps_set()] == [False, False]
    iterate(count, 1)
    assert count.timesteps_set()


def test_loop_longer_than_it_said_moves_the_total() -> None:
    count = started()
    iterate(count, 1)
    count.loop_measured(2)
    iterate(count, 4)
    assert (count.done, count.total) == (5, 5)


happenings = st.one_of(
    st.just("forward"),
    st.just("timesteps"),
    st.just("call"),
    st.tuples(st.just("step"), st.integers(1, 3)),
    st.tuples(st.just("length"), st.integers(0, 9)),
)


@given(st.integers(1, 4), st.lists(happenings, max_size=60))
def test_any_order_of_happenings_keeps_steps_within_a_growing_total(
    calls: int, order: list[str | tuple[str, int]]
) -> None:
    count = progress.StepCount(calls)
    count.call_started()
    done, total = 0, 0
    for happening in order:
        match happening:
            case "forward":
                count.forward_started()
            case "timesteps":
                count.timesteps_set()
            case "call":
                count.call_started()
            case ("step", stream):
                assert count.step_done(stream, None) is (count.done == done + 1)
            case ("length", length):
                count.loop_measured(length)
        assert count.done in (done, done + 1)
        assert count.total >= total
        assert count.total == 0 or count.done <= count.total
        done, total = count.done, count.total

import pytest

from kubediffusion_worker import estimates


def test_an_estimate_without_experience_is_a_second_each() -> None:
    estimator = estimates.Estimator()
    waiting = estimates.Waiting()
    waiting.add(estimates.Work(steps=50))
    waiting.add(estimates.Work())
    assert estimator.seconds_of_all(waiting) == 2.0
    assert estimator.seconds(estimates.Work(steps=50)) == 1.0


def test_fixed_time_and_time_per_step_are_told_apart() -> None:
    estimator = estimates.Estimator()
    estimator.observe(steps=10, step_seconds=0.5, total_seconds=7.0)
    assert estimator.seconds(estimates.Work(steps=10)) == pytest.approx(7.0)
    assert estimator.seconds(estimates.Work(steps=20)) == pytest.approx(12.0)


def test_unknown_steps_are_taken_to_be_as_usual() -> None:
    estimator = estimates.Estimator()
    estimator.observe(steps=10, step_seconds=0.5, total_seconds=5.0)
    assert estimator.seconds(estimates.Work()) == pytest.approx(5.0)


def test_the_estimate_follows_what_is_observed() -> None:
    estimator = estimates.Estimator()
    estimator.observe(steps=10, step_seconds=1.0, total_seconds=10.0)
    for _ in range(20):
        estimator.observe(steps=10, step_seconds=0.1, total_seconds=1.0)
    assert estimator.seconds(estimates.Work(steps=10)) == pytest.approx(1.0, rel=0.05)


def test_a_queue_costs_the_sum_of_its_generations() -> None:
    estimator = estimates.Estimator()
    estimator.observe(steps=10, step_seconds=0.5, total_seconds=7.0)
    works = [estimates.Work(steps=3), estimates.Work(), estimates.Work(steps=8)]
    waiting = estimates.Waiting()
    for work in works:
        waiting.add(work)
    assert estimator.seconds_of_all(waiting) == pytest.approx(sum(map(estimator.seconds, works)))
    for work in works:
        waiting.remove(work)
    assert estimator.seconds_of_all(waiting) == 0.0

import time

import pytest

from kubediffusion_worker import stopwatch


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_stopwatch_does_not_count_what_it_was_stopped_for(seconds: list[float]) -> None:
    watch = stopwatch.Stopwatch()
    began = watch()
    seconds[0] += 2.0
    watch.stop()
    seconds[0] += 30.0
    assert watch() - began == 2.0
    watch.go_on()
    seconds[0] += 1.0
    assert watch() - began == 3.0


def test_stopping_twice_is_stopping_once(seconds: list[float]) -> None:
    watch = stopwatch.Stopwatch()
    began = watch()
    watch.stop()
    seconds[0] += 5.0
    watch.stop()
    watch.go_on()
    watch.go_on()
    assert watch() == began

import queue
import threading

import pytest

from kubediffusion.executors import failures

PATIENCE = 30.0


def failure(incarnation: str = "1") -> failures.WorkerFailure:
    return failures.WorkerFailure(
        worker="w", incarnation=incarnation, reason="was killed", is_replaced=True
    )


def test_a_callback_hears_of_each_failure_once() -> None:
    callbacks = failures.FailureCallbacks()
    heard: queue.SimpleQueue[failures.WorkerFailure] = queue.SimpleQueue()
    callbacks.register(heard.put)
    for incarnation in ("1", "1", "2", "1"):
        callbacks.report(failure(incarnation))
    assert [heard.get(timeout=PATIENCE).incarnation for _ in range(2)] == ["1", "2"]
    assert heard.empty()


def test_a_failure_without_a_known_life_is_always_told() -> None:
    callbacks = failures.FailureCallbacks()
    heard: queue.SimpleQueue[failures.WorkerFailure] = queue.SimpleQueue()
    callbacks.register(heard.put)
    callbacks.report(failure(""))
    callbacks.report(failure(""))
    assert heard.get(timeout=PATIENCE) == heard.get(timeout=PATIENCE) == failure("")


def test_a_callback_may_take_no_argument() -> None:
    callbacks = failures.FailureCallbacks()
    called = threading.Event()
    callbacks.register(called.set)
    callbacks.report(failure())
    assert called.wait(PATIENCE)


def test_callbacks_run_on_another_thread() -> None:
    callbacks = failures.FailureCallbacks()
    threads: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    callbacks.register(lambda: threads.put(threading.current_thread()))
    callbacks.report(failure())
    assert threads.get(timeout=PATIENCE) is not threading.current_thread()


def test_a_callback_that_raises_does_not_silence_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callbacks = failures.FailureCallbacks()
    called = threading.Event()

    def broken() -> None:
        raise ValueError("oops")

    callbacks.register(broken)
    callbacks.register(called.set)
    callbacks.report(failure())
    assert called.wait(PATIENCE)
    assert "failure callback raised" in caplog.text


@pytest.mark.parametrize("callback", [None, 3, lambda a, b: None])
def test_what_cannot_be_called_so_is_refused(callback: object) -> None:
    with pytest.raises(TypeError, match="failure callback"):
        failures.FailureCallbacks().register(callback)  # type: ignore[arg-type]  # on purpose


def test_a_failure_before_any_callback_is_not_told_later() -> None:
    callbacks = failures.FailureCallbacks()
    callbacks.report(failure("1"))
    heard: queue.SimpleQueue[failures.WorkerFailure] = queue.SimpleQueue()
    callbacks.register(heard.put)
    callbacks.report(failure("1"))
    callbacks.report(failure("2"))
    assert heard.get(timeout=PATIENCE).incarnation == "2"

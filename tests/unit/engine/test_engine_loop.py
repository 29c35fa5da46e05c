import asyncio
import concurrent.futures
import os
import threading

import pytest

from kubediffusion import _loop, errors

PATIENCE = 30.0


async def give(value: object) -> object:
    await asyncio.sleep(0)
    return value


async def fail() -> None:
    raise LookupError("no")


async def hang() -> None:
    await asyncio.Event().wait()


def test_a_coroutine_runs_on_the_loop_s_thread() -> None:
    loop = _loop.EngineLoop()

    async def where() -> str:
        return threading.current_thread().name

    assert loop.run(where()) == "kubediffusion-loop"
    loop.close()


def test_errors_come_out_as_they_are() -> None:
    loop = _loop.EngineLoop()
    with pytest.raises(LookupError):
        loop.run(fail())
    loop.close()


def test_a_timeout_cancels_the_coroutine() -> None:
    loop = _loop.EngineLoop()
    cancelled = threading.Event()

    async def wait() -> None:
        try:
            await hang()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        loop.run(wait(), 0.01)
    assert cancelled.wait(PATIENCE)
    loop.close()


def test_cancelling_the_future_cancels_the_coroutine() -> None:
    loop = _loop.EngineLoop()
    future = loop.submit(hang())
    assert future.cancel()
    assert loop.run(give(1)) == 1
    loop.close()


def test_engines_share_one_thread() -> None:
    first, second = _loop.EngineLoop(), _loop.EngineLoop()

    async def which() -> object:
        return asyncio.get_running_loop()

    assert first.run(which()) is second.run(which())
    first.close()
    assert second.run(give(2)) == 2
    second.close()
    assert "kubediffusion-loop" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_comes_back_after_the_last_engine() -> None:
    for _ in range(3):
        loop = _loop.EngineLoop()
        assert loop.run(give(3)) == 3
        loop.close()


def test_closing_cancels_only_what_was_started_through_the_same_share() -> None:
    first, second = _loop.EngineLoop(), _loop.EngineLoop()
    mine, others = first.submit(hang()), second.submit(hang())
    first.close()
    with pytest.raises(concurrent.futures.CancelledError):
        mine.result(PATIENCE)
    assert not others.done()
    second.close()


def test_a_call_that_is_under_way_ends_with_the_engine() -> None:
    loop, outcome = _loop.EngineLoop(), concurrent.futures.Future[None]()
    has_begun = threading.Event()

    async def begin_and_hang() -> None:
        has_begun.set()
        await hang()

    def call() -> None:
        try:
            loop.run(begin_and_hang())
        except errors.EngineClosedError as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert has_begun.wait(PATIENCE)
    loop.close()
    with pytest.raises(errors.EngineClosedError):
        outcome.result(PATIENCE)
    thread.join(PATIENCE)


def test_a_closed_loop_says_so_and_closes_again() -> None:
    loop = _loop.EngineLoop()
    loop.close()
    loop.close()
    assert loop.is_closed
    assert not loop.is_usable
    with pytest.raises(errors.EngineClosedError, match="closed"):
        loop.run(give(1))


def test_blocking_the_loop_on_itself_is_refused() -> None:
    loop = _loop.EngineLoop()

    async def block() -> None:
        loop.run(give(1))

    with pytest.raises(RuntimeError, match="never end"):
        loop.run(block())
    loop.close()


def test_a_task_that_ignores_its_cancel_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = _loop.EngineLoop()
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    future = loop.submit(stubborn())
    other = _loop.EngineLoop()
    loop.close(timeout=0.05)
    assert not future.done()
    other.call_soon(release.set)
    future.result(PATIENCE)
    other.close()


def in_child(action: str) -> int:
    """Forks, and returns 0 where the child found what it should."""
    loop = _loop.EngineLoop()
    loop.run(give(1))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if action == "use":
                loop.run(give(1))
            elif action == "build":
                _loop.EngineLoop()
            else:
                loop.close()
                status = 0
        except _loop.ForkedProcessError as error:
            status = 0 if "spawn" in error.message else 2
        finally:
            os._exit(status)
    _, result = os.waitpid(child, 0)
    assert loop.run(give(1)) == 1
    loop.close()
    return os.waitstatus_to_exitcode(result)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("action", ["use", "build", "close"])
def test_a_forked_child_is_told_so(action: str) -> None:
    assert in_child(action) == 0

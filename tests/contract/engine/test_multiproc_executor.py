import json
import os
import pathlib
import queue
import signal
import stat
import subprocess
import sys
import tempfile
import threading

import psutil
import pytest

import scripted_executor
from kubediffusion import _loop, _processes, _respawn, _sockets, errors
from kubediffusion.executors import failures, multiproc
from kubediffusion_wire import errors as wire_errors

PATIENCE = scripted_executor.PATIENCE


def test_every_rank_answers_in_order() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config(num_gpus=2))
    with scripted_executor.started(executor):
        names = [answer["name"] for answer in executor.collective_rpc("identity")]
        assert names == ["worker-0", "worker-1"]
        assert executor.collective_rpc("identity", unique_reply_rank=0)["name"] == "worker-0"
        assert executor.collective_rpc("identity", unique_reply_rank=1)["name"] == "worker-1"
        executor.check_health()


def test_arguments_and_values_cross_the_wire() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    with scripted_executor.started(executor):
        reply = executor.collective_rpc("echo", args=(1, (2.5, None)), kwargs={"a": b"x"})
        assert reply == [[[1, (2.5, None)], {"a": b"x"}]]


def test_methods_fail_with_the_type_that_the_worker_raised() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    with scripted_executor.started(executor):
        with pytest.raises(errors.PipelineError) as failure:
            executor.collective_rpc("fail")
        assert "rank 0" in failure.value.__notes__[0]
        with pytest.raises(errors.MethodNotAllowedError):
            executor.collective_rpc("unheard_of")
        with pytest.raises(TimeoutError):
            executor.collective_rpc("sleep", timeout=0.1)
        with pytest.raises(TypeError, match="name of a worker's method"):
            executor.collective_rpc(print)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="from 0 to 0"):
            executor.collective_rpc("identity", unique_reply_rank=1)


def test_a_killed_worker_is_started_again() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config(num_gpus=2))
    told: queue.SimpleQueue[failures.WorkerFailure] = queue.SimpleQueue()
    executor.register_failure_callback(told.put)
    with scripted_executor.started(executor):
        before = scripted_executor.wait_for_links(executor, lambda links: len(links) == 2)
        first, second = scripted_executor.pids(executor)
        os.kill(first, signal.SIGKILL)
        after = scripted_executor.wait_for_links(
            executor, lambda links: len(links) == 2 and links[0] is not before[0]
        )
        assert before[0].is_gone
        assert after[1] is before[1]
        new, same = scripted_executor.pids(executor)
        assert new != first
        assert same == second
        failure = told.get(timeout=PATIENCE)
        assert (failure.worker, failure.is_replaced) == ("worker-0", True)
        assert failure.reason == "was killed by SIGKILL"
    assert told.empty()


def test_a_failure_callback_may_call_back() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config(num_gpus=2))
    seen: queue.SimpleQueue[object] = queue.SimpleQueue()
    executor.register_failure_callback(
        lambda: (
            seen.put(executor.collective_rpc("identity", unique_reply_rank=1))
            if executor.links()
            else None
        )
    )
    with scripted_executor.started(executor):
        links = scripted_executor.wait_for_links(executor, lambda links: len(links) == 2)
        os.kill(scripted_executor.pids(executor)[0], signal.SIGKILL)
        scripted_executor.wait_for_links(
            executor, lambda now: len(now) == 2 and now[0] is not links[0]
        )
        assert executor.collective_rpc("identity", unique_reply_rank=0)["name"] == "worker-0"


def test_while_a_rank_is_down_calls_say_so() -> None:
    class Slow(scripted_executor.ScriptedExecutor):
        policy = _respawn.RespawnPolicy(first_delay=3600.0, max_delay=3600.0)

    executor = Slow(scripted_executor.config(num_gpus=2))
    with scripted_executor.started(executor):
        os.kill(scripted_executor.pids(executor)[1], signal.SIGKILL)
        scripted_executor.wait_for_links(executor, lambda links: len(links) == 1)
        with pytest.raises(errors.WorkerStartingError, match="rank 1 has no worker"):
            executor.collective_rpc("identity")
        with pytest.raises(errors.KubediffusionError, match="worker-1"):
            executor.check_health()


def test_a_worker_that_dies_too_often_is_given_up() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    told: queue.SimpleQueue[failures.WorkerFailure] = queue.SimpleQueue()
    executor.register_failure_callback(told.put)
    with scripted_executor.started(executor):
        is_replaced = True
        while is_replaced:
            scripted_executor.wait_for_links(executor)
            os.kill(scripted_executor.pids(executor)[0], signal.SIGKILL)
            is_replaced = told.get(timeout=PATIENCE).is_replaced
        with pytest.raises(errors.WorkerFailedError, match="not started again"):
            executor.check_health()


def test_a_model_that_cannot_be_loaded_fails_the_start_with_the_worker_s_line() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config("bad-model"))
    with (
        pytest.raises(errors.ModelLoadError, match="cannot load the model 'bad-model'"),
        scripted_executor.started(executor),
    ):
        pass
    assert not psutil.Process().children()


def test_a_worker_that_crashes_at_its_start_fails_the_start() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config("crash"))
    with (
        pytest.raises(errors.WorkerFailedError, match="exited with code 70"),
        scripted_executor.started(executor),
    ):
        pass


def test_a_worker_that_never_serves_fails_the_start() -> None:
    config = scripted_executor.config("never-ready", start_timeout=1.0)
    with (
        pytest.raises(errors.WorkerFailedError, match="did not start in time"),
        scripted_executor.started(scripted_executor.ScriptedExecutor(config)),
    ):
        pass
    assert not psutil.Process().children()


def test_a_program_that_does_not_exist_fails_the_start() -> None:
    class Missing(scripted_executor.ScriptedExecutor):
        program = ("/nonexistent/python",)

    with (
        pytest.raises(errors.WorkerFailedError, match="/nonexistent/python"),
        scripted_executor.started(Missing(scripted_executor.config())),
    ):
        pass


def test_workers_end_with_the_executor() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config(num_gpus=2))
    with scripted_executor.started(executor):
        workers = scripted_executor.pids(executor)
    executor.shutdown()
    assert not any(psutil.pid_exists(pid) for pid in workers)
    with pytest.raises(errors.EngineClosedError):
        executor.check_health()


def test_a_worker_that_ignores_sigterm_is_killed() -> None:
    executor = scripted_executor.RudeExecutor(scripted_executor.config("deaf"))
    with scripted_executor.started(executor):
        workers = scripted_executor.pids(executor)
    assert not any(psutil.pid_exists(pid) for pid in workers)


def test_shutdown_ends_a_start_that_is_under_way() -> None:
    is_launching = threading.Event()

    class Telling(scripted_executor.ScriptedExecutor):
        def _launch(self, folder: _sockets.SocketFolder, rank: int) -> _processes.Launch:
            is_launching.set()
            return super()._launch(folder, rank)

    executor = Telling(scripted_executor.config("never-ready"))
    loop = _loop.EngineLoop()
    outcome: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def start() -> None:
        try:
            executor.start(loop)
        except errors.KubediffusionError as error:
            outcome.put(error)

    thread = threading.Thread(target=start)
    thread.start()
    assert is_launching.wait(PATIENCE)
    executor.shutdown()
    assert isinstance(outcome.get(timeout=PATIENCE), errors.EngineClosedError)
    thread.join(PATIENCE)
    loop.close()
    assert not psutil.Process().children()


def test_two_executors_live_side_by_side() -> None:
    first = scripted_executor.ScriptedExecutor(scripted_executor.config())
    second = scripted_executor.ScriptedExecutor(scripted_executor.config())
    with scripted_executor.started(first):
        with scripted_executor.started(second):
            assert scripted_executor.pids(first) != scripted_executor.pids(second)
        first.check_health()


def test_an_executor_without_an_engine_starts_itself() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    assert len(scripted_executor.pids(executor)) == 1
    executor.shutdown()


@pytest.mark.parametrize("argument", ["plain", "fork", "fake"])
def test_workers_die_with_a_killed_engine(argument: str) -> None:
    script = pathlib.Path(scripted_executor.__file__)
    engine = subprocess.Popen(
        [sys.executable, "-W", "ignore", script, argument], stdout=subprocess.PIPE
    )
    assert engine.stdout is not None
    told = json.loads(engine.stdout.readline())
    engine.kill()
    engine.wait()
    engine.stdout.close()
    scripted_executor.wait_until_ended(told["workers"])
    if told["child"]:
        os.kill(told["child"], signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_neither_use_nor_end_the_workers() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    with scripted_executor.started(executor):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                executor.shutdown()
                status = 2
                executor.collective_rpc("identity")
            except errors.EngineClosedError:
                status = 0
            finally:
                os._exit(status)
        _, result = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(result) == 0
        executor.check_health()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_call_in_a_forked_child_is_a_clear_error() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    with scripted_executor.started(executor):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                executor.collective_rpc("identity")
            except _loop.ForkedProcessError:
                status = 0
            finally:
                os._exit(status)
        _, result = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(result) == 0
        executor.check_health()


def test_sockets_lie_in_a_private_folder_that_goes_away() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    with scripted_executor.started(executor):
        (link,) = scripted_executor.wait_for_links(executor)
        socket = pathlib.Path(link.address.removeprefix("unix:"))
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert len(str(socket)) < 100
    assert not socket.parent.exists()


def test_nothing_is_left_open() -> None:
    def cycle() -> None:
        executor = scripted_executor.ScriptedExecutor(scripted_executor.config(num_gpus=2))
        with scripted_executor.started(executor):
            scripted_executor.pids(executor)

    cycle()
    process = psutil.Process()
    files, threads = process.num_fds(), threading.active_count()
    for _ in range(3):
        cycle()
    # gRPC closes its last sockets a moment later; a leak would be one a worker and cycle.
    assert process.num_fds() <= files + 4
    assert threading.active_count() <= threads


def test_workers_get_their_share_of_the_machine() -> None:
    config = scripted_executor.config(num_gpus=2, worker_environment={"COLOUR": "blue"})
    executor = scripted_executor.ScriptedExecutor(config)
    with scripted_executor.started(executor):
        threads = executor.collective_rpc("environment", args=("OMP_NUM_THREADS",))
        assert [int(count) >= 1 for count in threads] == [True, True]
        assert executor.collective_rpc("environment", args=("COLOUR",)) == ["blue", "blue"]


def test_a_model_is_needed() -> None:
    with pytest.raises(wire_errors.FixRequestError, match="model"):
        multiproc.MultiProcDiffusionExecutor(scripted_executor.config(""))


def test_add_requests_goes_through_the_engine() -> None:
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    with pytest.raises(RuntimeError, match="DiffusionEngine"):
        executor.add_requests([])
    executor.attach(lambda requests: [f"output of {request}" for request in requests])
    assert executor.add_requests(["r"]) == ["output of r"]
    executor.shutdown()


def test_the_temporary_folder_is_not_littered() -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    executor = scripted_executor.ScriptedExecutor(scripted_executor.config())
    with scripted_executor.started(executor):
        pass
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not [name for name in left if name.startswith("kubediffusion-mp-")]

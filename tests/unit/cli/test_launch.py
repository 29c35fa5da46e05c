import pathlib
import subprocess
import sys

import pytest

from kubediffusion.cli import launch
from kubediffusion.executors import machine
from kubediffusion_wire import addresses, errors


def plan(tmp_path, names=("w-1",), arguments=(), cores=2, devices=(), environment=None):
    shared = machine.Machine(cores=cores, device_files=devices, environment=environment or {})
    return launch.plan(names, folder=tmp_path, model="demo", arguments=arguments, shared=shared)


def test_new_workers_get_the_lowest_numbers_that_nobody_has():
    assert launch.free_names({"worker-2"}, 3, "worker") == ("worker-1", "worker-3", "worker-4")


def test_a_socket_lies_beside_the_announcement():
    folder = pathlib.Path("/run/kubediffusion")
    assert launch.socket_address(folder, "w") == "unix:/run/kubediffusion/w.sock"


def test_a_socket_whose_path_is_too_long_lies_elsewhere_and_each_folder_has_its_own():
    first = launch.socket_address(pathlib.Path("/", "a" * 120), "w")
    second = launch.socket_address(pathlib.Path("/", "b" * 120), "w")
    assert addresses.parse(first) != addresses.parse(second)


@pytest.mark.parametrize(("cores", "number", "threads"), [(8, 2, "4"), (2, 3, "1")])
def test_workers_share_the_cores(tmp_path, cores, number, threads):
    names = tuple(f"w-{i}" for i in range(number))
    words = plan(tmp_path, names, cores=cores)[0].command()
    assert words[words.index("--threads") + 1] == threads


def test_one_worker_alone_takes_what_torch_takes(tmp_path):
    assert "--threads" not in plan(tmp_path)[0].command()


def test_the_user_may_choose_the_threads(tmp_path):
    words = plan(tmp_path, ("a", "b"), arguments=("--threads=3",))[0].command()
    assert [word for word in words if "--threads" in word] == ["--threads=3"]


def test_each_worker_gets_a_gpu_of_its_own(tmp_path):
    plans = plan(tmp_path, ("a", "b"), devices=("nvidia0", "nvidia1"))
    assert [p.environment["CUDA_VISIBLE_DEVICES"] for p in plans] == ["0", "1"]


def test_more_workers_than_gpus_are_refused(tmp_path):
    with pytest.raises(errors.FixRequestError, match="at most 1"):
        plan(tmp_path, ("a", "b"), devices=("nvidia0",))


def test_gpus_do_not_matter_to_workers_on_the_cpu(tmp_path):
    plans = plan(tmp_path, ("a", "b"), arguments=("--device", "cpu"), devices=("nvidia0",))
    assert "CUDA_VISIBLE_DEVICES" not in plans[0].environment


@pytest.mark.parametrize(
    ("arguments", "value"),
    [(("--x", "1"), "1"), (("--x=1",), "1"), (("--y", "1"), None), (("--x",), None)],
)
def test_flags_are_found_in_both_spellings(arguments, value):
    assert launch.flag_value(arguments, "--x") == value


def test_the_flags_of_the_user_come_last_so_that_they_win(tmp_path):
    command = plan(tmp_path, arguments=("--listen", "127.0.0.1:0"))[0].command()
    assert command[-2:] == ("--listen", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("a\nkubediffusion-worker: no such model\n\n", "no such model"),
        ('Error: No such option\n{"level": "ERROR"}\n', "Error: No such option"),
        ('{"level": "INFO"}\n', '{"level": "INFO"}'),
        ("", "it said nothing"),
    ],
)
def test_a_worker_that_ended_is_quoted_with_what_says_why(log, words):
    assert launch.reason_in(log) == words


def ended(tmp_path, program):
    (worker,) = plan(tmp_path)
    worker.log.write_text("kubediffusion-worker: no such model\n")
    process = subprocess.Popen([sys.executable, "-c", program])
    process.wait()
    return launch.Started(worker, process)


def test_a_worker_that_ended_at_once_is_told_with_its_last_words(tmp_path):
    started = ended(tmp_path, "raise SystemExit(3)")
    with pytest.raises(errors.WorkerFailedError, match="code 3: no such model"):
        launch.check_running(started)


def test_a_worker_that_refused_its_flags_makes_the_command_wrong(tmp_path):
    with pytest.raises(errors.InvalidRequestError, match="code 2"):
        launch.check_running(ended(tmp_path, "raise SystemExit(2)"))


def test_a_worker_that_was_killed_is_told_by_the_signal(tmp_path):
    started = ended(tmp_path, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(errors.WorkerFailedError, match="ended by SIGKILL"):
        launch.check_running(started)

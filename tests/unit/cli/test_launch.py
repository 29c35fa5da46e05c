import pathlib
import subprocess
import sys

import pytest

from kubediffusion.cli import launch
from kubediffusion_wire import addresses, errors


def plan(tmp_path, names=("w-1",), arguments=(), cores=2):
    return launch.plan(names, folder=tmp_path, arguments=arguments, cores=cores)


def test_new_workers_get_the_lowest_numbers_that_nobody_has():
    assert launch.free_names({"worker-2"}, 3, "worker") == ("worker-1", "worker-3", "worker-4")


def test_a_socket_lies_beside_the_announcement():
    folder = pathlib.Path("/run/kubediffusion")
    assert launch.socket_address(folder, "w") == "unix:/run/kubediffusion/w.sock"


def test_a_socket_whose_path_is_too_long_lies_elsewhere_and_each_folder_has_its_own():
    first = launch.socket_address(pathlib.Path("/", "a" * 120), "w")
    second = launch.socket_address(pathlib.Path("/", "b" * 120), "w")
    assert addresses.parse(first) != addresses.parse(second)


def test_workers_share_the_cores(tmp_path):
    for cores, number, threads in ((8, 2, "4"), (2, 3, "1")):
        names = tuple(f"w-{i}" for i in range(number))
        command = plan(tmp_path, names, cores=cores)[0].command()
        assert command[command.index("--threads") + 1] == threads


def test_the_user_may_choose_the_threads(tmp_path):
    command = plan(tmp_path, arguments=("--threads=3",))[0].command()
    assert [word for word in command if "--threads" in word] == ["--threads=3"]


def test_the_flags_of_the_user_come_last_so_that_they_win(tmp_path):
    command = plan(tmp_path, arguments=("--listen", "127.0.0.1:0"))[0].command()
    assert command[-2:] == ("--listen", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("text", "words"), [("a\nModel not found.\n\n", "Model not found."), ("", "it said nothing")]
)
def test_a_worker_that_ended_is_quoted(tmp_path, text, words):
    log = tmp_path / "w.log"
    log.write_text(text)
    assert launch.last_words(log) == words


def test_a_worker_that_ended_at_once_is_told_with_its_last_words(tmp_path):
    (worker,) = plan(tmp_path)
    worker.log.write_text("no such model\n")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    with pytest.raises(errors.WorkerFailedError, match="exit code 3: no such model"):
        launch.check_running(launch.Started(worker, process))

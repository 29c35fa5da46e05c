import os
import signal
import subprocess
import sys

import pytest

from kubediffusion.cli import processes


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()


def test_this_process_runs():
    assert processes.is_running(os.getpid())


def test_a_process_that_was_collected_does_not_run(sleeper):
    sleeper.kill()
    sleeper.wait()
    assert not processes.is_running(sleeper.pid)


def test_a_zombie_does_not_run(sleeper):
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_running(sleeper.pid)


def test_waiting_tells_which_are_left(sleeper):
    assert processes.wait_ended([sleeper.pid], timeout=0.0) == (sleeper.pid,)
    processes.send([sleeper.pid], signal.SIGKILL)
    assert processes.wait_ended([sleeper.pid], timeout=30.0) == ()


def test_a_signal_to_nobody_is_no_error(sleeper):
    sleeper.kill()
    sleeper.wait()
    processes.send([sleeper.pid], signal.SIGTERM)

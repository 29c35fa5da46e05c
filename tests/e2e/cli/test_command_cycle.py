"""The real command line against a real worker with the demo model."""

import json
import os
import pathlib
import re
import signal
from collections.abc import Iterator

import PIL.Image
import psutil
import pytest

import command_line
from kubediffusion.cli import processes

STEPS = ("--steps", "4")
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def served() -> Iterator[command_line.CommandLine]:
    """A command line that finds one worker, started and stopped as a user does it.

    To load the model takes most of the time of these tests, hence one worker for all.
    """
    with command_line.command_line() as line:
        done = line.run("worker", "start", "--json", "--grace", "1")
        assert done.code == 0, done.err
        (row,) = done.json()
        assert row["state"] == "SERVING"
        yield line
        stopped = line.run("worker", "stop", "--json")
        pid = row["process_id"]
        assert stopped.json() == [{"name": "worker-1", "pid": pid, "is_stopped": True}]
        assert not processes.is_running(pid)
        assert line.workers() == []


@pytest.fixture
def alone() -> Iterator[command_line.CommandLine]:
    """A command line that finds no worker."""
    with command_line.command_line() as line:
        yield line


def detached(line: command_line.CommandLine, name: str, *options: str) -> None:
    done = line.run("generate", PROMPT, "--request-id", name, "--detach", *options)
    assert (done.code, done.out) == (0, f"{name}\n"), done.err


def state_of(line: command_line.CommandLine, name: str) -> str:
    rows = line.run("list", "--json").json()
    return next(row["state"] for row in rows if row["request_id"] == name)


def test_a_worker_is_listed_with_what_it_serves(served):
    (row,) = served.run("workers", "--json").json()
    assert (row["name"], row["model"], row["state"]) == ("worker-1", "demo", "SERVING")
    assert processes.is_running(row["process_id"])
    assert row["incarnation"][:8] in served.run("workers").out


def test_a_worker_has_a_session_of_its_own_so_that_no_hang_up_reaches_it(served):
    (entry,) = served.workers()
    assert os.getsid(entry.pid) == entry.pid


def test_a_name_that_is_taken_is_refused(served):
    done = served.run("worker", "start", "--name", "worker-1")
    assert done.code == 2
    assert "there is a worker 'worker-1' already" in done.err


def test_a_prompt_becomes_a_file(served):
    done = served.run("generate", PROMPT, *STEPS, "--seed", "7", "-o", "circle.png")
    assert done.code == 0, done.err
    assert done.out.startswith("circle.png   seed 7, ")
    # Which steps are told depends on the time they take; quick ones stand for each other.
    assert re.search(r": step \d/4, ", done.err)
    with PIL.Image.open(served.folder / "circle.png") as picture:
        assert picture.format == "PNG"


def test_several_prompts_and_outputs_are_numbered(served):
    done = served.run(
        *("generate", PROMPT, "a green star", *STEPS, "--num-outputs", "2"),
        *("--request-id", "many", "--seed", "5", "-o", "many.jpg", "--json"),
    )
    assert done.code == 0, done.err
    rows = [(row["path"], row["request_id"], row["seed"]) for row in done.json()]
    assert rows == [
        ("many-0.jpg", "many-0", 5),
        ("many-1.jpg", "many-0", 6),
        ("many-2.jpg", "many-1", 5),
        ("many-3.jpg", "many-1", 6),
    ]
    with PIL.Image.open(served.folder / "many-3.jpg") as picture:
        assert picture.format == "JPEG"


def test_the_same_seed_gives_the_same_file(served):
    for name in ("first.png", "second.png"):
        assert served.run("generate", PROMPT, *STEPS, "--seed", "3", "-o", name).code == 0
    first, second = ((served.folder / f"{n}.png").read_bytes() for n in ("first", "second"))
    assert first == second


def test_what_is_detached_goes_on_and_can_be_watched_and_fetched(served):
    detached(served, "later", *STEPS, "--seed", "1")
    watched = served.run("watch", "later", "--json")
    assert watched.code == 0, watched.err
    events = [json.loads(line) for line in watched.out.splitlines()]
    assert "queued" in events[0]
    assert "succeeded" in events[-1]
    for name in ("a.png", "b.webp"):  # Twice: to fetch takes nothing away.
        assert served.run("fetch", "later", "-o", name).out == f"{name}\n"
    with PIL.Image.open(served.folder / "b.webp") as picture:
        assert picture.format == "WEBP"
    assert state_of(served, "later") == "SUCCEEDED"


def test_a_cancel_is_confirmed(served):
    detached(served, "unwanted", "--steps", "500")
    early = served.run("fetch", "unwanted")
    assert early.code == 2
    assert "RESULT_NOT_READY" in early.err
    assert served.run("watch", "unwanted", "--timeout", "0.5").code == 4
    assert served.run("cancel", "unwanted").out == "unwanted: cancelled\n"
    assert state_of(served, "unwanted") == "CANCELLED"
    assert served.run("watch", "unwanted").code == 1


def test_an_id_of_two_engines_needs_the_engine(served):
    for engine in ("x", "y"):
        detached(served, "twice", *STEPS, "--engine-id", engine)
    done = served.run("fetch", "twice")
    assert done.code == 2
    assert "x, y; say which with --engine-id" in done.err
    assert served.run("fetch", "twice", "--engine-id", "y", "--wait").code == 0


def test_an_interrupt_cancels_what_was_submitted(served):
    process = served.start("generate", PROMPT, "--steps", "500", "--request-id", "stopped")
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "started" in line:
                break
        process.send_signal(signal.SIGINT)
        assert "stopped: cancelled" in process.stderr.read()
        assert process.wait(command_line.SECONDS) == 130
    (row,) = served.run("workers", "--json").json()
    assert (row["running"], row["queued"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--steps", "-1"), "num_inference_steps"),
        (("--width", "100000"), "width must be from 1 to 4096"),
        (("--guidance-scale", "nan"), "guidance_scale"),
        (("--set", "guidence_rescale=1"), "did you mean guidance_rescale"),
        (("--set", "eta=red"), "eta"),
        (("--image", "notes.txt"), "PNG, JPEG, WEBP"),
        (("--request-id", "a/b"), "a/b"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_request_that_is_wrong_is_refused_with_its_field(served, options, complaint):
    (served.folder / "notes.txt").write_text("no picture")
    done = served.run("generate", PROMPT, *options)
    assert (done.code, done.out) == (2, "")
    assert complaint in done.err
    assert "Traceback" not in done.err


def test_a_worker_that_serves_another_model_is_no_worker(served):
    done = served.run("generate", PROMPT, "--model", "other")
    assert done.code == 3
    assert "no worker serves other: worker-1 (serving, demo)" in done.err


def test_with_debugging_an_error_shows_where_it_was_raised(served):
    done = served.run("fetch", "nothing", KUBEDIFFUSION_DEBUG="1")
    assert "Traceback" in done.err


def test_without_a_worker_nothing_external_can_be_done(alone):
    for arguments in (("generate", PROMPT, "--detach"), ("list",), ("workers",)):
        assert alone.run(*arguments).code == 3


def test_a_model_that_cannot_be_loaded_is_told_and_leaves_no_process(alone):
    done = alone.run("worker", "start", "--model", str(pathlib.Path("no", "such", "model")))
    assert done.code == 3
    assert "no/such/model" in done.err
    assert alone.workers() == []


def test_an_interrupt_leaves_no_worker_of_our_own_behind(alone):
    process = alone.start("generate", PROMPT)
    with process:
        assert process.stderr is not None
        assert "Starting 1 worker of our own" in process.stderr.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(command_line.SECONDS) == 130
    assert not any(processes.is_running(child.pid) for child in children)

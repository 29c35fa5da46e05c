"""The demo with few steps: the same processes, kills and counts as `make demo`."""

import signal
from collections.abc import Iterator

import PIL.Image
import psutil
import pytest

import command_line
from kubediffusion.cli import processes


@pytest.fixture
def line() -> Iterator[command_line.CommandLine]:
    with command_line.command_line() as line:
        yield line


def test_an_engine_and_a_worker_are_killed_and_nothing_is_lost_or_done_twice(line):
    done = line.run("demo", "--steps", "6", "--long-steps", "40", "-o", "out", "--json")
    assert (done.code, done.err) == (0, "")
    facts = done.json()
    assert facts["before"] == facts["after"]
    assert len(facts["before"]) == 2
    assert facts["done_before_kill"] >= 2
    assert facts["running_at_kill"]
    assert facts["executed_once"] == facts["delivered"] == facts["requested"] == 12
    assert not any(processes.is_running(life["process_id"]) for life in facts["before"].values())
    act = facts["takeover"]
    assert {act["killed"], act["went_on"]} == {"worker-1", "worker-2"}
    assert act["sha256"] == act["undisturbed_sha256"]
    assert act["exactness"] in ("exact", "restarted")
    with PIL.Image.open(line.folder / "out" / "contact-sheet.png") as sheet:
        assert sheet.width > sheet.height > 0
    assert {path.name for path in (line.folder / "out").iterdir()} == {
        "contact-sheet.png",
        "long-picture.png",
        "long-picture-again.png",
        *(f"picture-{number:02}.png" for number in range(1, 13)),
    }


def test_an_interrupt_leaves_no_process_behind(line):
    process = line.start("demo", "-o", "out", "--workers", "1")
    with process:
        assert process.stdout is not None
        for text in process.stdout:
            if "Engine A" in text:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(command_line.SECONDS) == 130
    assert len(children) == 2  # The worker and the engine.
    assert not any(processes.is_running(child.pid) for child in children)


def test_prompts_that_are_too_few_are_refused(line):
    (line.folder / "prompts.txt").write_text("a red circle\n")
    done = line.run("demo", "--prompts", "prompts.txt")
    assert done.code == 2
    assert "one a line" in done.err

"""Commands about workers and running generations, against worker processes without a model."""

import contextlib
import hashlib
import json
import pathlib
import signal
from collections.abc import Iterator

import PIL.Image
import pytest

import command_line
import kubediffusion
import served

SECONDS = 120.0


class Site:
    """Two workers, an engine that uses them, and a command line beside it."""

    def __init__(self, line: command_line.CommandLine, processes: dict[str, served.Process]):
        self.line = line
        self.processes = processes
        self.engine = kubediffusion.DiffusionEngine(
            engine_id="site",
            distributed_executor_backend="external_launcher",
            discovery="registry",
            registry=line.registry,
            takeover_seconds=3600.0,
        )

    def begin(self, name: str = "film", *, steps: int = 800) -> kubediffusion.Generation:
        """Starts a generation that takes some seconds, and waits until it is under way."""
        generation = self.engine.submit(
            {
                "prompt": "p",
                "request_id": name,
                "num_inference_steps": steps,
                "extra_args": {"step_seconds": 0.01},
            }
        )
        next(event for event in generation.events() if event.kind == "progress")
        return generation

    def state(self, name: str = "film") -> str:
        """Returns what the workers say of a generation; of its newest attempt."""
        rows = self.line.run("list", "--json").json()
        found = [row for row in rows if row["request_id"] == name]
        return str(max(found, key=lambda row: row["attempt"])["state"])

    def states(self) -> dict[str, str]:
        """Returns what the workers say of themselves."""
        return {row["name"]: row["state"] for row in self.line.run("workers", "--json").json()}


@pytest.fixture(name="site")
def a_site() -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(command_line.command_line())
        processes = {}
        for name in ("worker-1", "worker-2"):
            flags = ("--name", name, "--registry", str(line.registry))
            listen = ("--listen", f"unix:{line.folder}/{name}.sock")
            process = stack.enter_context(served.a_process(*flags, *listen))
            processes[name] = process
        site = Site(line, processes)
        stack.callback(site.engine.close)
        yield site


def resumption(generation: kubediffusion.Generation) -> kubediffusion.GenerationEvent:
    return next(event for event in generation.events() if event.kind == "resumed")


def test_a_drained_worker_is_empty_and_its_work_goes_on_elsewhere(site: Site) -> None:
    generation = site.begin()
    worker = generation.worker
    done = site.line.run("drain", worker, "--policy", "checkpoint", "--wait")
    assert (done.code, done.out) == (0, f"{worker}: drained\n"), done.err
    assert site.states()[worker] == "DRAINED"
    resumed = resumption(generation)
    assert resumed.worker != worker
    assert (resumed.exactness, resumed.step > 0) == ("exact", True)
    assert generation.result(SECONDS).resumed_from == resumed.step
    assert site.line.run("undrain", worker).out == f"{worker}: serving\n"
    assert site.states() == {"worker-1": "SERVING", "worker-2": "SERVING"}


def test_a_drain_can_leave_the_time_to_finish(site: Site) -> None:
    generation = site.begin(steps=200)
    worker = generation.worker
    done = site.line.run("drain", worker, "--policy", "finish", "--budget", "100", "--json")
    assert (done.code, done.json()) == (0, {"name": worker, "state": "DRAINING"})
    assert generation.result(SECONDS).worker == worker
    assert generation.attempt == 1


def test_a_drain_that_takes_too_long_ends_with_the_code_for_that(site: Site) -> None:
    worker = site.begin(steps=1000).worker
    options = ("--policy", "finish", "--budget", "100", "--wait", "--timeout", "0.5")
    done = site.line.run("drain", worker, *options)
    assert done.code == 4
    assert "was not drained after 0.5 s" in done.err
    assert f"{worker}: draining, 1 running" in done.err


def test_a_killed_worker_is_known_to_be_dead_without_waiting(site: Site) -> None:
    generation = site.begin(steps=600)
    generation.checkpoint()
    # Progress goes on all the time; by then the engine has fetched one.
    next(True for _ in generation.events() if generation._record.checkpoints)
    worker = generation.worker
    site.processes[worker].signal(signal.SIGKILL)
    resumed = resumption(generation)
    assert resumed.worker != worker
    assert generation.result(SECONDS).exactness == "exact"


def test_a_parked_generation_stands_still_until_it_is_resumed(site: Site) -> None:
    generation = site.begin()
    done = site.line.run("pause", "film")
    assert (done.code, done.out) == (0, "film: parked\n"), done.err
    assert site.state() == "PARKED"
    done = site.line.run("resume", "film", "--json")
    assert (done.code, done.json()[0]["state"]) == (0, "RUNNING")
    assert generation.result(SECONDS).attempt == 1


def test_what_has_ended_cannot_be_paused(site: Site) -> None:
    site.begin(steps=2).result(SECONDS)
    done = site.line.run("pause", "film")
    assert done.code == 2
    assert "film" in done.err


def test_a_checkpoint_is_saved_and_described(site: Site) -> None:
    generation = site.begin()
    done = site.line.run("checkpoint", "film", "-o", "film.checkpoint", "--json")
    assert done.code == 0, done.err
    known = done.json()
    assert (known["worker"], known["path"]) == (generation.worker, "film.checkpoint")
    assert known["step"] > 0
    data = (site.line.folder / "film.checkpoint").read_bytes()
    assert len(data) == known["size"]
    assert hashlib.sha256(data).hexdigest() == known["sha256"]
    newest = site.line.run("checkpoint", "film", "--newest", "--json").json()
    assert newest["step"] >= known["step"]
    text = site.line.run("checkpoint", "film").out
    assert text.startswith(f"generation    film on {generation.worker}\n")


def test_a_checkpoint_goes_into_no_folder_that_is_not_there(site: Site) -> None:
    done = site.line.run("checkpoint", "film", "-o", str(pathlib.Path("no", "where")))
    assert done.code == 2
    assert "there is no folder" in done.err


def test_a_watch_follows_a_generation_to_another_worker(site: Site) -> None:
    generation = site.begin()
    watch = site.line.start("watch", "film", "--json")
    with watch:
        assert watch.stdout is not None
        lines = [watch.stdout.readline()]  # From now on it misses nothing.
        site.line.run("drain", generation.worker, "--policy", "checkpoint")
        lines += watch.stdout.readlines()
    assert watch.returncode == 0
    events = [json.loads(line) for line in lines]
    kinds = [next(iter(event.keys() & KINDS), "") for event in events]
    assert kinds.index("handed_over") < kinds.index("resumed") < kinds.index("succeeded")


KINDS = {"handed_over", "resumed", "succeeded"}


def test_a_watch_saves_previews(site: Site) -> None:
    site.begin()
    done = site.line.run("watch", "film", "--previews", "previews")
    assert done.code == 0, done.err
    pictures = sorted((site.line.folder / "previews").iterdir())
    assert pictures
    with PIL.Image.open(pictures[0]) as picture:
        assert picture.format == "JPEG"


def test_workers_tell_what_becomes_of_their_work(site: Site) -> None:
    rows = site.line.run("workers", "--json").json()
    assert {(row["resume"], row["has_previews"]) for row in rows} == {("exact", True)}
    assert len({row["fingerprint"] for row in rows}) == 1

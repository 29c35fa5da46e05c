"""kill -9 of the engine at 50 random moments: nothing is lost, nothing runs twice."""

import collections
import contextlib
import pathlib
import random
import re
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

import engine_program
import served
import zoo
from kubediffusion import _journal, _statedir

KILLS = 50
SEED = 20_261_122
REQUESTS_PER_LIFE = 3
STEPS = 4
THREADS = {"OMP_NUM_THREADS": "1"}

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]


@pytest.fixture(name="model", scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    zoo.build("sd15").pipeline.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def two_workers(model: pathlib.Path) -> Iterator[list[served.Process]]:
    flags = ("--threads", "1", "--http", "127.0.0.1:0", "--log-level", "error")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(served.short_folder())
        workers = [
            stack.enter_context(
                served.a_process(
                    *("--name", name, "--listen", f"unix:{folder}/{name}.sock", *flags),
                    module="kubediffusion_worker",
                    model=str(model),
                    environment=THREADS,
                )
            )
            for name in ("a", "b")
        ]
        yield workers


def task(workers: list[served.Process], folder: pathlib.Path, count: int) -> engine_program.Task:
    return engine_program.Task(
        log=str(folder / "log"),
        config={
            "engine_id": folder.name,
            "state_dir": str(folder / "state"),
            "distributed_executor_backend": "external_launcher",
            "workers": [worker.address for worker in workers],
        },
        request={
            "prompt": "a red circle",
            "num_inference_steps": STEPS,
            "height": 32,
            "width": 32,
        },
        ids=[f"r{number}" for number in range(count)],
    )


def live(given: engine_program.Task, seconds: float | None) -> None:
    """Let an engine work for some seconds, or to its end."""
    with engine_program.start(given) as process:
        try:
            _, complaint = process.communicate(timeout=seconds)
            assert process.returncode == 0, complaint.decode()
        except subprocess.TimeoutExpired:
            process.kill()


def executions(worker: served.Process) -> int:
    """Return how many generations a worker has computed, by its own metrics."""
    with urllib.request.urlopen(f"http://{worker.listening['http']}/metrics") as answer:
        text = answer.read().decode()
    name = r'kubediffusion_worker_generations_ended_total\{state="succeeded"\}'
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return int(float(found.group(1))) if found else 0


def results(folder: pathlib.Path) -> dict[str, list[str]]:
    found = collections.defaultdict(list)
    for name, digest, _ in engine_program.lines(folder / "log", "result"):
        found[name].append(digest)
    return dict(found)


def test_every_accepted_request_ends_once_and_equals_the_undisturbed_run(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    chance = random.Random(SEED)
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    disturbed.mkdir()
    calm.mkdir()
    count = KILLS * REQUESTS_PER_LIFE
    with two_workers(model) as workers:
        for life in range(1, KILLS + 1):
            given = task(workers, disturbed, life * REQUESTS_PER_LIFE)
            live(given, chance.uniform(0.1, 0.9))
        live(task(workers, disturbed, count), None)
        assert sum(map(executions, workers)) == count, "something ran twice, or not at all"
        live(task(workers, calm, count), None)
    found = results(disturbed)
    assert len(found) == count
    assert all(len(digests) == 1 for digests in found.values())
    assert {words[0] for words in engine_program.lines(disturbed / "log", "accepted")} <= set(
        found
    )
    assert found == results(calm)
    check_journal(disturbed, list(found))


def check_journal(folder: pathlib.Path, names: list[str]) -> None:
    path = _statedir.folder_of(folder / "state", folder.name) / "journal.sqlite3"
    journal = _journal.SqliteJournal(path)
    for name in names:
        entry = journal.read(name)
        assert entry is not None
        assert (entry.ending, entry.attempt) == ("succeeded", 1)
    assert list(journal.unfinished()) == []
    journal.close()

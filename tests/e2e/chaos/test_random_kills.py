"""kill -9 of workers and engines at random moments: nothing is lost, doubled or different."""

import collections
import os
import pathlib

import pytest

import chaos
import engine_program
import served
import zoo
from kubediffusion import _journal, _statedir

PLAN = chaos.Plan(
    seed=int(os.environ.get("KUBEDIFFUSION_CHAOS_SEED", "20261122")),
    generations=int(os.environ.get("KUBEDIFFUSION_CHAOS_GENERATIONS", "40")),
    kills=int(os.environ.get("KUBEDIFFUSION_CHAOS_KILLS", "12")),
)
"""The long form is 200 generations and 100 kills: `make test-chaos`."""

pytestmark = [
    pytest.mark.timeout(2 * chaos.PATIENCE),
    *(pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS),
]


def results(folder: pathlib.Path) -> dict[str, list[str]]:
    found = collections.defaultdict(list)
    for name, digest, *_ in engine_program.lines(folder / "log", "result"):
        found[name].append(digest)
    return dict(found)


def test_all_generations_end_once_with_the_pixels_of_the_undisturbed_run(
    tmp_path: pathlib.Path,
) -> None:
    model = tmp_path / "tiny"
    zoo.build("sd15").pipeline.save_pretrained(model)
    with served.short_folder() as short, chaos.workers(model, pathlib.Path(short)) as workers:
        disturbed = chaos.task(workers, tmp_path / "disturbed", PLAN)
        tally = chaos.suffer(workers, disturbed, PLAN)
        workers.await_all()
        calm = chaos.task(workers, tmp_path / "calm", PLAN)
        with engine_program.start(calm) as process:
            _, complaint = process.communicate(timeout=chaos.PATIENCE)
            assert process.returncode == 0, complaint.decode()
    found = results(tmp_path / "disturbed")
    told = f"seed {PLAN.seed}, {tally}"
    assert tally.workers > 0 < tally.engines, told
    assert len(found) == PLAN.generations, told
    assert all(len(digests) == 1 for digests in found.values()), told
    assert found == results(tmp_path / "calm"), told
    check_journal(tmp_path / "disturbed", list(found))
    moves = list(engine_program.lines(tmp_path / "disturbed" / "log", "resumed"))
    assert any(int(step) > 0 for _, step in moves), f"nothing went on from a checkpoint: {told}"


def check_journal(folder: pathlib.Path, names: list[str]) -> None:
    path = _statedir.folder_of(folder / "state", folder.name) / "journal.sqlite3"
    journal = _journal.SqliteJournal(path)
    assert {journal.read(name).ending for name in names} == {"succeeded"}  # type: ignore[union-attr]  # None would fail too
    assert list(journal.unfinished()) == []
    journal.close()

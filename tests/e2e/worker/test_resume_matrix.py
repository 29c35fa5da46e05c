"""Pipelines go on in another process, with every scheduler; here a spread of all that do.

`make test-matrix` tries all of them and writes the table in the docs.
"""

import pathlib
import random

import pytest

import resume_matrix
import solvers

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "reference" / "resume-matrix.md"
SPREAD = 64


def listed() -> dict[resume_matrix.Combination, str]:
    return resume_matrix.read_table(PAGE.read_text(encoding="utf-8"))


def spread() -> list[resume_matrix.Combination]:
    """Return each scheduler at least once, and others by chance, always the same."""
    exact = [pair for pair, result in listed().items() if result == resume_matrix.EXACT]
    random.Random(4).shuffle(exact)
    once = {solver: (name, solver) for name, solver in exact}
    others = [pair for pair in exact if pair not in once.values()]
    chosen = [*once.values(), *others][:SPREAD]
    # Pairs of one pipeline follow on each other, so that it is built once.
    return sorted(chosen)


def test_table_has_every_combination_of_the_zoo() -> None:
    assert sorted(listed()) == sorted(resume_matrix.combinations())


def test_table_is_what_would_be_written_again() -> None:
    assert resume_matrix.table(listed()) == PAGE.read_text(encoding="utf-8")


def test_table_has_no_difference_and_enough_combinations() -> None:
    results = list(listed().values())
    assert set(results) == {resume_matrix.EXACT, resume_matrix.REFUSED}
    assert results.count(resume_matrix.EXACT) >= 249
    exact = {name for (name, _), result in listed().items() if result == resume_matrix.EXACT}
    assert len(exact) >= 30


def test_spread_has_every_scheduler() -> None:
    assert len(spread()) >= 60
    every = {*solvers.DIFFUSION, *solvers.FLOW, *solvers.COGVIDEOX, solvers.OWN}
    assert {solver for _, solver in spread()} == every


@pytest.mark.timeout(1200)  # It takes a minute or two where nothing else runs.
def test_pipelines_go_on_in_another_process_with_the_same_bits() -> None:
    wanted = spread()
    assert resume_matrix.try_all(wanted) == dict.fromkeys(wanted, resume_matrix.EXACT)

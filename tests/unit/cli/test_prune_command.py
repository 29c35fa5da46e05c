import json

import pytest

from kubediffusion import _statedir
from kubediffusion.cli import __main__ as cli
from kubediffusion.cli import exits, prune


@pytest.fixture(name="state")
def a_state(tmp_path):
    for name in ("a", "b"):
        _statedir.StateDir(tmp_path, name, journal_mode="auto").close()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("12h", 43_200.0), ("7d", 604_800.0)],
)
def test_ages_have_units(given, seconds):
    assert prune.Age().convert(given, None, None) == seconds


@pytest.mark.parametrize(
    ("given", "size"), [("5", 5), ("2kB", 2000), ("1.5MB", 1_500_000), ("20 GB", 20 * 10**9)]
)
def test_sizes_have_units(given, size):
    assert prune.Size().convert(given, None, None) == size


@pytest.mark.parametrize("options", [["--older-than", "soon"], ["--max-bytes", "-1"]])
def test_what_is_no_age_or_size_is_refused(options, state, capsys):
    assert cli.run(["prune", str(state), *options]) == exits.ExitCode.INVALID
    assert "write" in capsys.readouterr().err


def test_every_engine_is_told(state, capsys):
    assert cli.run(["prune", str(state)]) == exits.ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a", "b"]


def test_one_engine_can_be_chosen(state, capsys):
    assert cli.run(["prune", str(state), "--engine-id", "b", "--json"]) == exits.ExitCode.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["engine_id"], row["problem"]) == ("b", "")


def test_an_engine_without_state_is_refused_with_those_that_have_some(state, capsys):
    assert cli.run(["prune", str(state), "--engine-id", "c"]) == exits.ExitCode.INVALID
    assert "a, b" in capsys.readouterr().err


def test_a_running_engine_is_named_and_no_failure(state, capsys):
    holder = _statedir.StateDir(state, "a", journal_mode="auto")
    try:
        assert cli.run(["prune", str(state)]) == exits.ExitCode.OK
    finally:
        holder.close()
    captured = capsys.readouterr()
    assert "a: left alone: another engine" in captured.err
    assert captured.out.startswith("b: freed")

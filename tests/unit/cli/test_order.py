import os
import pathlib

import click
import pytest

from kubediffusion.cli import exits, options, order
from kubediffusion_wire import errors, registry


@pytest.fixture
def nobody(tmp_path):
    return options.Reach(registry=tmp_path / "empty")


@pytest.fixture
def somebody(tmp_path):
    entry = registry.Entry(name="w", address="unix:/w", incarnation="i", pid=os.getpid())
    registry.write(entry, tmp_path)
    return options.Reach(registry=tmp_path)


def test_workers_that_are_there_are_used(somebody):
    assert order.choose_backend(None, somebody, is_detached=False) == "external"


def test_without_any_one_is_started(nobody):
    assert order.choose_backend(None, nobody, is_detached=False) == "mp"


@pytest.mark.parametrize("backend", ["mp", "uni"])
def test_the_user_may_choose(somebody, backend):
    assert order.choose_backend(backend, somebody, is_detached=False) == backend


def test_named_workers_are_meant_to_be_used(nobody):
    reach = options.Reach(addresses=("127.0.0.1:1",))
    assert order.choose_backend(None, reach, is_detached=False) == "external"
    with pytest.raises(click.UsageError, match="--workers"):
        order.choose_backend("mp", reach, is_detached=False)


def test_what_goes_on_without_us_needs_a_worker_that_is_there(nobody, somebody):
    assert order.choose_backend(None, somebody, is_detached=True) == "external"
    with pytest.raises(errors.NoWorkerError):
        order.choose_backend(None, nobody, is_detached=True)
    with pytest.raises(click.UsageError, match="--detach"):
        order.choose_backend("uni", somebody, is_detached=True)


def test_an_outcome_tells_each_file_with_its_seed():
    outcome = order.Outcome(
        request_id="cat",
        paths=(pathlib.Path("0.png"), pathlib.Path("1.png")),
        seeds=(7, 8),
        seconds=3.21,
        worker="w",
    )
    assert list(outcome.lines()) == ["0.png   seed 7, 3.2 s on w", "1.png   seed 8, 3.2 s on w"]
    assert [row["seed"] for row in outcome.rows()] == [7, 8]
    assert outcome.code is exits.ExitCode.OK


def test_a_failure_is_told_and_has_its_exit_code():
    outcome = order.Outcome(request_id="cat", error=errors.PipelineError("it raised"))
    assert list(outcome.lines()) == []
    assert "it raised" in outcome.rows()[0]["error"]
    assert outcome.code is exits.ExitCode.FAILED


def test_what_goes_on_is_told_by_its_id():
    outcome = order.Outcome(request_id="cat", worker="w", is_detached=True)
    assert list(outcome.lines()) == ["cat"]
    assert outcome.rows() == [{"request_id": "cat", "worker": "w"}]

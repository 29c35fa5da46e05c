import os

import pytest

from kubediffusion.cli import worker
from kubediffusion_wire import errors, registry


def entry(name):
    return registry.Entry(name=name, address=f"unix:/{name}", incarnation="i", pid=os.getpid())


@pytest.fixture
def folder(tmp_path):
    registry.write(entry("worker-1"), tmp_path)
    return tmp_path


def test_without_a_name_the_next_free_number_is_taken(folder):
    assert worker.choose_names(folder, 1, None) == ("worker-2",)


def test_one_worker_gets_the_name_and_several_get_numbers(folder):
    assert worker.choose_names(folder, 1, "gpu0") == ("gpu0",)
    assert worker.choose_names(folder, 2, "gpu") == ("gpu-1", "gpu-2")


@pytest.mark.parametrize("name", ["worker-1", "a/b"])
def test_a_name_that_is_taken_or_no_name_is_refused(folder, name):
    with pytest.raises(errors.InvalidRequestError, match=name):
        worker.choose_names(folder, 1, name)


def test_workers_are_chosen_by_name_or_all():
    entries = [entry("a"), entry("b")]
    assert worker.choose(entries, ["b", "b"]) == (entries[1],)
    assert worker.choose(entries, []) == tuple(entries)


def test_a_worker_that_is_not_there_is_told_with_the_nearest_names():
    with pytest.raises(errors.InvalidRequestError, match="did you mean 'worker-1'"):
        worker.choose([entry("worker-1")], ["wroker-1"])

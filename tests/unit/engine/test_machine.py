import os
import pathlib

import pytest

from kubediffusion.executors import machine


def quota(tmp_path: pathlib.Path, own: str, **limits: str) -> int | None:
    """Ask with limits by the folder of the group, in which _ stands for the root."""
    for name, limit in limits.items():
        folder = tmp_path / name.strip("_").replace("_", "/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(limit + "\n")
    (tmp_path / "own").write_text(own + "\n")
    return machine.quota(tmp_path, tmp_path / "own")


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", None),
        ("", None),
    ],
)
def test_a_quota_is_counted_in_whole_cores(
    tmp_path: pathlib.Path, limit: str, cores: int | None
) -> None:
    assert quota(tmp_path, "0::/", _=limit) == cores


def test_the_tightest_of_the_groups_counts(tmp_path: pathlib.Path) -> None:
    limits = {"a": "200000 100000", "a_b": "800000 100000", "a_b_c": "max 100000"}
    assert quota(tmp_path, "0::/a/b/c", **limits) == 2


def test_groups_of_others_do_not_count(tmp_path: pathlib.Path) -> None:
    assert quota(tmp_path, "0::/a", b="100000 100000") is None


def test_only_groups_of_version_2_are_read(tmp_path: pathlib.Path) -> None:
    assert quota(tmp_path, "4:cpu,cpuacct:/a", a="100000 100000") is None


def test_a_system_without_groups_has_no_quota(tmp_path: pathlib.Path) -> None:
    assert machine.quota(tmp_path, tmp_path / "missing") is None


def test_this_machine_has_no_more_cores_than_the_process_may_use() -> None:
    assert 1 <= machine.this_one().cores <= len(os.sched_getaffinity(0))

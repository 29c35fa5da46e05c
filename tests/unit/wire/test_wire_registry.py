import json
import os
import pathlib
import socket
import stat
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import strategies

from kubediffusion_wire import errors, registry

NOW = 1_000_000.0


def entry(**changes: object) -> registry.Entry:
    facts: dict[str, object] = {
        "name": "worker-0",
        "address": "unix:/run/worker-0.sock",
        "incarnation": "i1",
        "pid": os.getpid(),
        "updated": NOW,
    }
    return registry.Entry(**(facts | changes))  # type: ignore[arg-type]  # mixed on purpose


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "a" / "workers"


def names(folder: pathlib.Path, *, now: float = NOW) -> list[str]:
    return [found.name for found in registry.read(folder, now=now)]


def put(folder: pathlib.Path, text: str | bytes, *, name: str = "worker-0.json") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def as_json(**changes: object) -> str:
    facts = {
        "name": "worker-0",
        "address": "127.0.0.1:1",
        "incarnation": "i",
        "pid": os.getpid(),
        "updated": NOW,
    }
    return json.dumps(facts | changes)


def test_an_entry_comes_back(folder: pathlib.Path) -> None:
    written = entry(model="demo", labels={"gpu": "0"}, heartbeat=1.0)
    registry.write(written, folder)
    assert registry.read(folder, now=NOW) == [written]


def test_entries_come_sorted_by_name(folder: pathlib.Path) -> None:
    for name in ("w2", "w10", "w1"):
        registry.write(entry(name=name), folder)
    assert names(folder) == ["w1", "w10", "w2"]


def test_folder_and_file_are_for_their_owner_alone(folder: pathlib.Path) -> None:
    path = registry.write(entry(), folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_refresh_replaces_the_file_and_leaves_nothing_else(folder: pathlib.Path) -> None:
    registry.write(entry(), folder)
    registry.write(entry(updated=NOW + 2), folder)
    assert os.listdir(folder) == ["worker-0.json"]
    assert registry.read(folder, now=NOW)[0].updated == NOW + 2


def test_a_folder_that_does_not_exist_is_empty(folder: pathlib.Path) -> None:
    assert registry.read(folder) == []


def test_a_file_is_stale_after_ten_seconds(folder: pathlib.Path) -> None:
    registry.write(entry(), folder)
    assert names(folder, now=NOW + 9.9) == ["worker-0"]
    assert names(folder, now=NOW + 10.1) == []


def test_a_slow_heartbeat_allows_more_age(folder: pathlib.Path) -> None:
    registry.write(entry(heartbeat=10.0), folder)
    assert names(folder, now=NOW + 49) == ["worker-0"]


def test_a_file_from_the_far_future_does_not_live_for_ever(folder: pathlib.Path) -> None:
    registry.write(entry(updated=NOW + 1_000_000), folder)
    assert names(folder) == []


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_dead_process_of_this_host_is_left_out(folder: pathlib.Path, dead_pid: int) -> None:
    registry.write(entry(pid=dead_pid), folder)
    assert names(folder) == []


def test_a_process_of_another_host_is_not_looked_for(folder: pathlib.Path, dead_pid: int) -> None:
    registry.write(entry(pid=dead_pid, host="another-host"), folder)
    assert names(folder) == ["worker-0"]


def test_an_entry_names_this_host(folder: pathlib.Path) -> None:
    assert entry().host == socket.gethostname()


def test_a_worker_removes_its_file(folder: pathlib.Path) -> None:
    registry.write(entry(), folder)
    registry.remove("worker-0", folder, incarnation="i1")
    registry.remove("worker-0", folder)
    assert os.listdir(folder) == []


def test_a_worker_leaves_the_file_of_its_successor(folder: pathlib.Path) -> None:
    registry.write(entry(incarnation="i2"), folder)
    registry.remove("worker-0", folder, incarnation="i1")
    assert names(folder) == ["worker-0"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\0b", "x" * 129, "é"])
def test_names_that_are_no_file_names_are_refused(name: str, folder: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"^name must be"):
        entry(name=name)
    with pytest.raises(errors.InvalidRequestError, match=r"^name must be"):
        registry.remove(name, folder)


@pytest.mark.parametrize(
    "changes", [{"address": "nowhere"}, {"pid": 0}, {"heartbeat": 0.0}, {"heartbeat": 1e9}]
)
def test_entries_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidRequestError):
        entry(**changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        "{}",
        b"\xff\xfe",
        "[" * 60_000,
        " " * 70_000,
        as_json(name="other"),
        as_json(name=7),
        as_json(address="file:///etc/passwd"),
        as_json(address=None),
        as_json(pid="1"),
        as_json(pid=True),
        as_json(pid=-1),
        as_json(updated="now"),
        as_json(updated=float("nan")),
        as_json(heartbeat=float("inf")),
        as_json(labels=[]),
        as_json(labels={"a": 1}),
        as_json(incarnation={}),
    ],
)
def test_broken_files_are_skipped(text: str | bytes, folder: pathlib.Path) -> None:
    put(folder, text)
    registry.write(entry(name="good"), folder)
    assert names(folder) == ["good"]


def test_a_pid_beyond_all_bounds_is_nobodys(folder: pathlib.Path) -> None:
    put(folder, as_json(pid=2**80))
    assert names(folder) == []


def test_fields_of_the_future_are_ignored(folder: pathlib.Path) -> None:
    put(folder, as_json(new_field=[1, 2]))
    assert names(folder) == ["worker-0"]


@hypothesis.given(strategies.binary(max_size=200))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_random_files_are_skipped(folder: pathlib.Path, data: bytes) -> None:
    put(folder, data)
    assert names(folder) == []


def test_links_pipes_and_folders_are_skipped(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    registry.write(entry(name="good"), folder)
    put(tmp_path, as_json(name="link"), name="target")
    (folder / "link.json").symlink_to(tmp_path / "target")
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    put(folder, as_json(name=".hidden"), name=".hidden.json")
    put(folder, "{}", name="notes.txt")
    assert names(folder) == ["good"]


def test_a_link_in_place_of_the_temporary_file_is_not_followed(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder.mkdir(parents=True, mode=0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / f".worker-0.{os.getpid()}.tmp").symlink_to(victim)
    with pytest.raises(registry.RegistryError):
        registry.write(entry(), folder)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_folder_that_others_can_write_to_is_not_trusted(folder: pathlib.Path, mode: int) -> None:
    put(folder, as_json())
    folder.chmod(mode)
    with pytest.raises(registry.RegistryError, match="writable by you alone"):
        registry.read(folder)
    with pytest.raises(registry.RegistryError, match="writable by you alone"):
        registry.write(entry(), folder)


def test_a_file_in_place_of_the_folder_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "workers"
    path.touch()
    with pytest.raises(registry.RegistryError, match=r"cannot use the registry folder .*workers"):
        registry.read(path)


def test_the_default_folder_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEDIFFUSION_REGISTRY", "/somewhere")
    assert registry.default_folder() == pathlib.Path("/somewhere")


def test_the_default_folder_is_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEDIFFUSION_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert registry.default_folder() == pathlib.Path("/run/user/7/kubediffusion/workers")


def test_the_default_folder_is_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEDIFFUSION_REGISTRY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert f"kubediffusion-{os.geteuid()}" in registry.default_folder().parts

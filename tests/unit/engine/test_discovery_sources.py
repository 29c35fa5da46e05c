import asyncio
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from kubediffusion import errors
from kubediffusion._discovery import following, protocol, registry, selection, static
from kubediffusion_wire import registry as wire_registry

PATIENCE = 30.0


def entry(name: str, **changes: Any) -> wire_registry.Entry:
    facts: dict[str, Any] = {"address": "127.0.0.1:1", "incarnation": "1", "pid": os.getpid()}
    return wire_registry.Entry(**{"name": name, **facts, **changes})


async def first(source: protocol.Discovery) -> tuple[protocol.Endpoint, ...]:
    async for found in source.endpoints():
        return found
    return ()


def test_a_static_source_names_workers_by_address_and_drops_repetitions() -> None:
    source = static.StaticDiscovery(["h:1", "unix:/s", "h:1"])
    found = asyncio.run(first(source))
    assert [(each.name, each.address) for each in found] == [("h:1",) * 2, ("unix:/s",) * 2]


def test_a_registry_that_does_not_exist_is_empty(tmp_path: pathlib.Path) -> None:
    assert asyncio.run(first(registry.RegistryDiscovery(tmp_path / "none"))) == ()


def test_a_registry_tells_changes_and_no_heartbeats(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "registry"

    async def scenario() -> list[list[str]]:
        source = registry.RegistryDiscovery(folder, poll_seconds=0.005)
        told = []
        async with asyncio.timeout(PATIENCE):
            async for found in source.endpoints():
                told.append([each.name for each in found])
                match len(told):
                    case 1:
                        wire_registry.write(entry("b"), folder)
                    case 2:
                        wire_registry.write(entry("b", updated=1.0 + entry("b").updated), folder)
                        wire_registry.write(entry("a", labels={"k": "v"}), folder)
                    case 3:
                        assert found[0].labels == {"k": "v"}
                        wire_registry.remove("b", folder)
                    case _:
                        break
        return told

    assert asyncio.run(scenario()) == [[], ["b"], ["a", "b"], ["a"]]


@pytest.fixture(name="dead_pid")
def a_dead_pid() -> Iterator[int]:
    """Gives the id of a process that has ended; a zombie until the test is over."""
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


def test_a_worker_whose_process_has_ended_is_told_to_be_dead(
    tmp_path: pathlib.Path, dead_pid: int
) -> None:
    folder = tmp_path / "registry"
    wire_registry.write(entry("a", pid=dead_pid, address=f"unix:{tmp_path}/a.sock"), folder)
    wire_registry.write(entry("b"), folder)
    found = registry.look(folder)
    assert [(each.name, each.is_dead) for each in found] == [("b", False), ("a", True)]


def test_nobody_is_dead_at_whose_address_somebody_listens(
    tmp_path: pathlib.Path, dead_pid: int
) -> None:
    folder = tmp_path / "registry"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/a.sock")
        listener.listen()
        wire_registry.write(entry("a", pid=dead_pid, address=f"unix:{tmp_path}/a.sock"), folder)
        assert registry.look(folder) == ()


def test_nothing_is_known_of_processes_on_other_machines(
    tmp_path: pathlib.Path, dead_pid: int
) -> None:
    folder = tmp_path / "registry"
    wire_registry.write(entry("a", pid=dead_pid, updated=1.0, host="other"), folder)
    assert registry.look(folder) == ()


def test_a_registry_that_others_may_write_is_a_failure(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(protocol.DiscoveryError, match="registry"):
        asyncio.run(first(registry.RegistryDiscovery(tmp_path)))


class Flaky:
    """Tells one set at each call of `endpoints`, and fails after the first of them."""

    def __init__(self) -> None:
        self.calls = 0

    async def endpoints(self) -> AsyncIterator[tuple[protocol.Endpoint, ...]]:
        self.calls += 1
        yield (protocol.Endpoint(name=f"w{self.calls}", address="h:1"),)
        if self.calls < 3:
            raise ValueError("the source broke")


def test_a_source_that_fails_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> list[str]:
        return [found[0].name async for found in following.follow(Flaky(), retry_seconds=0.001)]

    assert asyncio.run(scenario()) == ["w1", "w2", "w3"]
    assert "keeping the last known workers" in caplog.text


@pytest.mark.parametrize(
    ("name", "workers", "kind"),
    [
        (None, (), registry.RegistryDiscovery),
        (None, ("h:1",), static.StaticDiscovery),
        ("static", ("h:1",), static.StaticDiscovery),
        ("registry", (), registry.RegistryDiscovery),
    ],
)
def test_a_configuration_names_a_source(
    name: str | None, workers: Sequence[str], kind: type[object]
) -> None:
    assert isinstance(selection.source(name, workers=workers), kind)


@pytest.mark.parametrize(
    ("name", "workers"),
    [("static", ()), ("registry", ("h:1",)), ("dns", ()), ("", "h:1"), ("static", "h:1")],
)
def test_configurations_that_make_no_sense_are_refused(
    name: str | None, workers: Sequence[str]
) -> None:
    with pytest.raises(errors.ConfigError, match=r"discovery|workers"):
        selection.source(name, workers=workers)

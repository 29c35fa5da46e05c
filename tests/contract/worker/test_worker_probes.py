import asyncio
import contextlib
import pathlib
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from callers import PATIENCE
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import channels, errors
from kubediffusion_worker import probes, vitals
from served import Process, a_process, connected, serving, short_folder


def get(http: str, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{http}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def got(http: str, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, http, path)


def facts(state: worker_pb2.WorkerState = worker_pb2.WORKER_STATE_SERVING) -> vitals.Facts:
    return vitals.Facts(
        state=state, loop_beat=1e12, signs=vitals.Pulse().read(), is_compiling=False
    )


@contextlib.contextmanager
def answering(told: Callable[[], vitals.Facts] = facts) -> Iterator[str]:
    server = probes.ProbeServer("127.0.0.1:0", told, lambda: b"metrics\n")
    server.start()
    try:
        yield str(server.address)
    finally:
        server.stop()


def test_a_serving_worker_answers_all_probes() -> None:
    with answering() as http:
        assert get(http, "/healthz/live") == (200, "live\n")
        assert get(http, "/healthz/ready") == (200, "serving\n")
        assert get(http, "/healthz/started") == (200, "SERVING\n")
        assert get(http, "/metrics") == (200, "metrics\n")


def test_a_probe_that_fails_says_why() -> None:
    with answering(lambda: facts(worker_pb2.WORKER_STATE_STARTING)) as http:
        assert get(http, "/healthz/live")[0] == 200
        assert get(http, "/healthz/ready") == (503, "not serving: STARTING\n")
        assert get(http, "/healthz/started") == (503, "the model is being loaded\n")


@pytest.mark.parametrize("path", ["/", "/healthz", "/healthz/live/x", "/../etc/passwd", "//"])
def test_other_paths_are_not_found(path: str) -> None:
    with answering() as http:
        assert get(http, path) == (404, "no such path\n")


def test_queries_are_ignored_and_other_methods_refused() -> None:
    with answering() as http:
        assert get(http, "/healthz/live?verbose=1")[0] == 200
        assert get(http, "/healthz/live", "HEAD") == (200, "")
        assert get(http, "/healthz/live", "POST")[0] == 501


def test_connections_that_say_nothing_hold_up_no_probe() -> None:
    with answering() as http, contextlib.ExitStack() as stack:
        host, _, port = http.rpartition(":")
        for _ in range(probes.MAX_CONNECTIONS - 2):
            idle = stack.enter_context(socket.create_connection((host, int(port))))
            idle.sendall(b"GET /healthz/li")
        assert get(http, "/healthz/live")[0] == 200


GARBAGE = (b"\x16\x03\x01\x02\x00\r\n\r\n", b"A" * 70_000 + b"\r\n\r\n", b"\0\r\n\r\n")


def send(http: str, data: bytes) -> None:
    """Write bytes to the port, and read until the connection is closed."""
    host, _, port = http.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def test_garbage_is_answered_or_closed(capsys: pytest.CaptureFixture[str]) -> None:
    with answering() as http:
        for garbage in GARBAGE:
            with contextlib.suppress(ConnectionError):
                send(http, garbage)
        assert get(http, "/healthz/live")[0] == 200
    assert capsys.readouterr().err == ""


def test_a_port_in_use_is_a_clear_error() -> None:
    with (
        answering() as http,
        pytest.raises(channels.ListenError, match=f"cannot listen on {http}"),
    ):
        probes.ProbeServer(http, facts, lambda: b"")


def test_probes_follow_the_life_of_a_process() -> None:
    async def story(worker: Process, folder: pathlib.Path) -> None:
        http = str(worker.listening["http"])
        assert (await got(http, "/healthz/live"))[0] == 200
        assert (await got(http, "/healthz/started"))[0] == 503
        assert (await got(http, "/healthz/ready"))[0] == 503
        async with connected(worker.address) as client:
            (folder / "loaded").touch()
            await client.serving()
            assert (await got(http, "/healthz/started"))[0] == 200
            assert (await got(http, "/healthz/ready"))[0] == 200
            await client.submit("a", wait_for=str(folder / "go"))
            await client.until("started")
            worker.signal()
            async for response in client.watch():
                if response.state == worker_pb2.WORKER_STATE_DRAINING:
                    break
            assert await got(http, "/healthz/ready") == (503, "not serving: DRAINING\n")
            assert (await got(http, "/healthz/live"))[0] == 200
            (folder / "go").touch()
            await client.result("a")
            await client.acknowledge("a")
        assert await worker.ended() == 0

    with short_folder() as path:
        folder = pathlib.Path(path)
        with a_process("--http", "127.0.0.1:0", model=f"slow:{folder}/loaded") as worker:
            asyncio.run(story(worker, folder))


def test_metrics_count_what_happens() -> None:
    async def story() -> str:
        async with serving("tcp") as worker:
            client = worker.client()
            await client.submit("a", steps=5, prompt="a secret prompt")
            await client.result("a")
            await client.submit("b", raises="memory")
            await client.end("b")
            with pytest.raises(errors.GenerationNotFoundError):
                await client.cancel("c")
            return worker.runtime.metrics.text().decode()

    text = asyncio.run(story())
    for line in (
        "steps_total 5.0",
        "step_seconds_count 5.0",
        "queue_seconds_count 2.0",
        'generations_ended_total{state="succeeded"} 1.0',
        'generations_ended_total{state="failed"} 1.0',
        'errors_total{reason="DEVICE_OUT_OF_MEMORY"} 1.0',
        'errors_total{reason="GENERATION_NOT_FOUND"} 1.0',
        'state{state="serving"} 1.0',
        'memory_bytes{kind="process_resident"}',
    ):
        assert f"kubediffusion_worker_{line}" in text
    assert "secret" not in text

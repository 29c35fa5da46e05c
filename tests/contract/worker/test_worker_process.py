"""A worker as a process: its start, its end, and what it leaves behind."""

import asyncio
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from callers import PATIENCE, Calls, Client, names
from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import channels, errors, registry
from served import Process, a_process, command, connected, run_to_end, short_folder

SUPPORT = pathlib.Path(__file__).parents[2] / "support"


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    with short_folder() as path:
        yield pathlib.Path(path)


async def _running(client: Client, request_id: str, gate: pathlib.Path) -> None:
    """Submit a generation that runs until a file is there."""
    await client.submit(request_id, wait_for=str(gate))
    await client.until("started", request_id)


async def _follow(client: Client, request_id: str, is_followed: asyncio.Event) -> list[str]:
    """Return the events of a generation; tell when the worker knows of the watch."""
    seen: list[str] = []
    async with asyncio.timeout(PATIENCE):
        async for response in client.watch(request_id, until_terminal=True):
            seen += names(response.events)
            is_followed.set()
    return seen


def _start_engine(program: str, address: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, address],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
    )


async def _draining(client: Client) -> None:
    async with asyncio.timeout(PATIENCE):
        async for response in client.watch():
            if response.state == worker_pb2.WORKER_STATE_DRAINING:
                return


def test_one_line_on_standard_output_says_where_it_listens() -> None:
    with a_process("--name", "w0", "--http", "127.0.0.1:0") as worker:
        assert worker.listening["event"] == "listening"
        assert worker.listening["name"] == "w0"
        assert worker.listening["pid"] == worker.process.pid
        assert worker.listening["http"].startswith("127.0.0.1:")
        worker.signal()
        assert worker.wait() == 0
        assert worker.process.stdout is not None
        assert worker.process.stdout.read() == ""


def test_it_answers_while_the_model_is_being_loaded(folder: pathlib.Path) -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            found = await client.worker()
            assert found.state == worker_pb2.WORKER_STATE_STARTING
            assert found.incarnation == worker.listening["incarnation"]
            with pytest.raises(errors.WorkerStartingError) as caught:
                await client.submit("a")
            assert caught.value.retry_delay is not None
            (folder / "loaded").touch()
            await client.serving()
            await client.submit("a")
            await client.result("a")

    with a_process(model=f"slow:{folder}/loaded") as worker:
        asyncio.run(story(worker))


def test_sigterm_finishes_what_runs_and_keeps_it_until_it_is_acknowledged(
    folder: pathlib.Path,
) -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            await _running(client, "running", folder / "go")
            await client.submit("waiting")
            worker.signal()
            await _draining(client)
            with pytest.raises(errors.WorkerDrainingError):
                await client.submit("new")
            assert names(await client.events("waiting")) == ["queued", "handed_over"]
            (folder / "go").touch()
            await client.result("running")
            assert worker.process.poll() is None
            await client.acknowledge("running")
            assert await worker.ended() == 0

    with a_process() as worker:
        asyncio.run(story(worker))


def test_an_engine_that_comes_back_during_the_drain_gets_its_result() -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a")
            await client.end("a")
            worker.signal()
            await _draining(client)
        async with connected(worker.address) as again:
            successor = Client(again.calls, epoch=2)
            assert [found.request_id for found in await successor.listing()] == ["a"]
            await successor.result("a")
            await successor.acknowledge("a")
        assert await worker.ended() == 0

    with a_process() as worker:
        asyncio.run(story(worker))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_ends_at_once(number: signal.Signals) -> None:
    with a_process("--grace", "3600") as worker:
        worker.signal(number)
        assert worker.wait() == 0


def test_what_is_not_done_within_the_budget_is_handed_over(folder: pathlib.Path) -> None:
    async def story(worker: Process) -> list[str]:
        async with connected(worker.address) as client:
            await client.serving()
            await _running(client, "a", folder / "never")
            is_followed = asyncio.Event()
            events = asyncio.create_task(_follow(client, "a", is_followed))
            await is_followed.wait()
            worker.signal()
            return await events

    with a_process("--grace", "0.2") as worker:
        assert asyncio.run(story(worker)) == ["queued", "started", "handed_over"]
        assert worker.wait() == 0


def test_a_second_signal_ends_the_budget(folder: pathlib.Path) -> None:
    async def story(worker: Process) -> list[str]:
        async with connected(worker.address) as client:
            await client.serving()
            await _running(client, "a", folder / "never")
            is_followed = asyncio.Event()
            events = asyncio.create_task(_follow(client, "a", is_followed))
            await is_followed.wait()
            worker.signal(signal.SIGTERM)
            await _draining(client)
            worker.signal(signal.SIGINT)
            return await events

    with a_process("--grace", "3600") as worker:
        assert asyncio.run(story(worker))[-1] == "handed_over"
        assert worker.wait() == 0


def test_a_watch_learns_that_the_worker_has_ended() -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            async for response in client.watch():
                if response.is_live:
                    worker.signal()

    with a_process() as worker, pytest.raises(errors.WorkerGoneError):
        asyncio.run(story(worker))


def test_it_ends_with_its_parent() -> None:
    reading, writing = os.pipe()
    with a_process("--parent-fd", str(reading), pass_fds=(reading,)) as worker:
        os.close(reading)
        assert worker.process.poll() is None
        os.close(writing)
        assert worker.wait() == 0


def test_it_ends_with_a_parent_that_was_killed(folder: pathlib.Path) -> None:
    """The parent is killed with -9, so that only the kernel can close its end of the pipe."""
    program = (
        "import os, subprocess, sys, time\n"
        "reading, writing = os.pipe()\n"
        "child = subprocess.Popen([*sys.argv[1:], '--parent-fd', str(reading)],\n"
        "                         stdout=subprocess.PIPE, pass_fds=(reading,))\n"
        "print(child.stdout.readline().decode(), flush=True)\n"
        "time.sleep(3600)\n"
    )
    worker = command("--model", "fake", "--listen", f"unix:{folder}/w.sock")
    with subprocess.Popen(
        [sys.executable, "-c", program, *worker], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(json.loads(parent.stdout.readline())["pid"])
        parent.kill()
    child.wait(PATIENCE)


def test_an_engine_killed_while_it_watches_misses_nothing(folder: pathlib.Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from served import connected\n"
        "async def main():\n"
        "    async with connected(sys.argv[1]) as client:\n"
        "        async for response in client.watch('a'):\n"
        "            for event in response.events:\n"
        "                print(event.sequence, flush=True)\n"
        "asyncio.run(main())\n"
    )

    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a", steps=120, step_seconds=0.01)
            seen: list[int] = []
            with _start_engine(program, worker.address) as engine:
                assert engine.stdout is not None
                while len(seen) < 20:
                    seen.append(int(await asyncio.to_thread(engine.stdout.readline)))
                engine.kill()
                seen += map(int, engine.stdout.read().split())
            successor = Client(client.calls, epoch=2)
            events = await successor.events("a", after={"a": seen[-1]})
            seen += [event.sequence for event in events]
            assert seen == list(range(1, len(seen) + 1))
            assert names(events)[-1] == "succeeded"
            assert len(seen) > 40

    with a_process() as worker:
        asyncio.run(story(worker))


def test_another_process_on_the_same_port_cannot_listen() -> None:
    with a_process() as worker:
        second = run_to_end("--model", "fake", "--listen", worker.address)
        assert second.returncode == 5
        assert second.stdout == ""
        assert f"cannot listen on {worker.address}" in second.stderr


def test_another_process_on_the_same_unix_socket_cannot_listen(folder: pathlib.Path) -> None:
    listen = f"unix:{folder}/w.sock"
    with a_process("--listen", listen) as worker:
        second = run_to_end("--model", "fake", "--listen", listen)
        assert second.returncode == 5
        assert "another process listens there" in second.stderr
        asyncio.run(_is_serving(worker))


async def _is_serving(worker: Process) -> None:
    async with connected(worker.address) as client:
        await client.serving()


def test_a_unix_socket_is_for_its_owner_alone_and_removed_at_the_end(folder: pathlib.Path) -> None:
    path = folder / "w.sock"
    with a_process("--listen", f"unix:{path}") as worker:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        worker.signal()
        assert worker.wait() == 0
    assert not path.exists()


def test_the_socket_of_a_killed_worker_is_replaced(folder: pathlib.Path) -> None:
    listen = f"unix:{folder}/w.sock"
    with a_process("--listen", listen) as worker:
        worker.signal(signal.SIGKILL)
        worker.wait()
    with a_process("--listen", listen) as worker:
        asyncio.run(_is_serving(worker))


def test_a_worker_is_known_in_the_registry_while_it_lives(folder: pathlib.Path) -> None:
    with a_process("--name", "w0", "--registry", str(folder / "workers")) as worker:
        (entry,) = registry.read(folder / "workers")
        assert (entry.name, entry.address) == ("w0", worker.address)
        assert entry.incarnation == worker.listening["incarnation"]
        worker.signal()
        assert worker.wait() == 0
    assert registry.read(folder / "workers") == []


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--model", "broken"], 3, "cannot serve model 'broken': there is no such fake model"),
        (["--model", "fake", "--listen", "0.0.0.0:0"], 2, "(insecure)"),
        (["--model", "fake", "--listen", "192.0.2.1:0", "--insecure"], 5, "cannot listen"),
        (["--model", "fake", "--listen", "unix:/nowhere/w.sock"], 5, "folder does not exist"),
        (["--model", "fake", "--http", "192.0.2.1:80"], 5, "cannot listen on 192.0.2.1:80"),
        (["--model", "fake", "--parent-fd", "999"], 2, "--parent-fd"),
        (["--model"], 2, "--model"),
    ],
)
def test_a_worker_that_cannot_serve_says_why_in_one_line(
    flags: list[str], code: int, text: str
) -> None:
    ended = run_to_end(*flags)
    assert ended.returncode == code
    assert text in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


def test_a_failed_device_ends_the_process(folder: pathlib.Path) -> None:
    async def story(worker: Process) -> list[str]:
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a", raises="sticky", at=2, wait_for=str(folder / "go"))
            is_followed = asyncio.Event()
            events = asyncio.create_task(_follow(client, "a", is_followed))
            await is_followed.wait()
            (folder / "go").touch()
            return await events

    with a_process() as worker:
        assert asyncio.run(story(worker))[-1] == "failed"
        assert worker.wait() == 4
        (line,) = [line for line in worker.log() if line["message"] == "Worker failed"]
        assert (line["kind"], line["level"]) == ("device", "ERROR")


def test_logs_tell_what_happened_but_not_what_was_asked_for() -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            await client.serving()
            await client.submit("a", prompt="a very secret prompt", raises="pipeline")
            await client.end("a")

    with a_process("--log-level", "DEBUG") as worker:
        asyncio.run(story(worker))
        worker.signal()
        worker.wait()
        lines = worker.log()
    changes = [line["event"] for line in lines if line["message"] == "Generation changed"]
    assert changes == ["queued", "started", "failed"]
    assert "secret" not in json.dumps(lines)


def test_logs_carry_the_trace_of_the_request() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"

    async def story(worker: Process) -> None:
        async with channels.open_channel(worker.address) as channel:
            client = Client(Calls(channel))
            await client.serving()
            stub = worker_pb2_grpc.WorkerServiceStub(channel)  # type: ignore[no-untyped-call] # generated
            await stub.SubmitGeneration(
                worker_pb2.SubmitGenerationRequest(
                    caller=client.caller, request_id="a", spec=client.spec()
                ),
                metadata=[("traceparent", f"00-{trace}-b7ad6b7169203331-01")],
            )
            await client.result("a")
            await client.acknowledge("a")

    with a_process() as worker:
        asyncio.run(story(worker))
        worker.signal()
        worker.wait()
        lines = worker.log()
    traced = [line["event"] for line in lines if line.get("trace_id") == trace]
    assert traced == ["queued", "started", "succeeded"]

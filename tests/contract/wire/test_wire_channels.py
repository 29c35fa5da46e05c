"""Every option of the channels by its effect: gRPC ignores options whose names are wrong.

What takes a while runs in programs of its own, which are all started with the first test.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc.aio
import psutil
import pytest

import wire_programs
import wire_server
from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import addresses, channels, errors, status

SILENCE = 60
"""Seconds; without the server's options a client that pings is thrown out after 50."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """Clients and servers of which one has been stopped, or is silent for long."""

    busy_client: wire_programs.Program
    silent_client: wire_programs.Program
    idle_client: wire_programs.Program
    patient_client: wire_programs.Program
    left_server: wire_programs.Program
    late_server: wire_programs.Program
    late_client: wire_programs.Program
    dead_clients: wire_programs.Program
    first_pause: wire_programs.Program
    last_pause: wire_programs.Program


@pytest.fixture(scope="module", autouse=True)
def scenes() -> Iterator[Scenes]:
    with contextlib.ExitStack() as stack:

        def start(name: str, *arguments: str) -> wire_programs.Program:
            return stack.enter_context(wire_programs.Program(name, *arguments))

        stopped, lively, late = (start("wire_server", "127.0.0.1:0") for _ in range(3))
        lenient = start("wire_server", "127.0.0.1:0", "grpc.http2.ping_timeout_ms")
        address, lively_address = stopped.line(), lively.line()
        clients = [
            start("wire_client", f"quiet:{SILENCE}", lively_address),
            start("wire_client", "busy", address),
            start("wire_client", "quiet:600", address),
            start("wire_client", "idle", address),
            start("wire_client", "quiet:600", late.line()),
            start("wire_client", "quiet:600", lively_address),
        ]
        dead_clients = start("wire_peers", f"b={lenient.line()}", f"a={lively_address}")
        first_pause = start("wire_reconnects", "grpc.initial_reconnect_backoff_ms", "5")
        last_pause = start("wire_reconnects", "grpc.max_reconnect_backoff_ms", "13")
        for client in clients:
            assert client.line() == "ready"
        stopped.stop()
        clients[-1].stop()
        yield Scenes(
            patient_client=clients[0],
            busy_client=clients[1],
            silent_client=clients[2],
            idle_client=clients[3],
            left_server=lively,
            late_server=late,
            late_client=clients[4],
            dead_clients=dead_clients,
            first_pause=first_pause,
            last_pause=last_pause,
        )


async def get(channel: grpc.aio.Channel, **options: object) -> str:
    with status.map_errors():
        response = await worker_pb2_grpc.WorkerServiceStub(channel).GetWorker(
            worker_pb2.GetWorkerRequest(), **options
        )
    return response.worker.name


@contextlib.asynccontextmanager
async def slow_to_connect(address: str, delay: float) -> AsyncIterator[str]:
    """A relay that answers only some time after it has accepted a connection."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay)
        target = addresses.parse(address)
        far_reader, far_writer = await asyncio.open_connection(target.host, target.port)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def test_a_proxy_of_the_environment_is_ignored() -> None:
    proxy = dict.fromkeys(["http_proxy", "https_proxy", "grpc_proxy"], "http://127.0.0.1:1")
    proxy |= {"no_proxy": "", "no_grpc_proxy": ""}
    with wire_programs.Program("wire_server", "127.0.0.1:0") as server:
        address = server.line()
        with wire_programs.Program("wire_client", "get", address, environment=proxy) as client:
            assert client.line() == "fake"
        # The same without our options, to see that the variables would have mattered.
        with wire_programs.Program(
            "wire_client", "get-unconfigured", address, environment=proxy
        ) as client:
            assert client.line() == "WorkerGoneError"


def test_a_peer_that_is_slow_to_answer_a_connection_is_waited_for() -> None:
    async def scene() -> str:
        async with (
            wire_server.serving(wire_server.FakeWorker()) as address,
            slow_to_connect(address, 0.5) as slow_address,
            channels.open_channel(slow_address) as channel,
        ):
            return await get(channel)

    assert asyncio.run(scene()) == "fake"


def test_a_channel_finds_a_server_that_came_back() -> None:
    async def scene() -> None:
        async with wire_server.serving(wire_server.FakeWorker()) as address:
            channel = channels.open_channel(address)
            await get(channel)
        with pytest.raises(errors.WorkerGoneError):
            await get(channel)
        async with wire_server.serving(wire_server.FakeWorker(), address):
            assert await get(channel, wait_for_ready=True, timeout=30) == "fake"
            await channel.close()

    asyncio.run(scene())


def user_timeouts(port: int) -> list[int]:
    """Return how long the kernel waits for both ends of a connection, in milliseconds."""
    found = []
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and port in (connection.laddr.port, connection.raddr.port):
            with socket.socket(fileno=os.dup(connection.fd)) as end:
                found.append(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return found


def test_data_that_the_network_swallows_breaks_the_connection_at_both_ends() -> None:
    async def scene() -> list[int]:
        async with (
            wire_server.serving(wire_server.FakeWorker()) as address,
            channels.open_channel(address) as channel,
        ):
            await get(channel)
            return user_timeouts(addresses.parse(address).port)

    # A network that loses everything takes rights that tests lack: this is what gRPC has asked
    # of the kernel, which by default tries for 15 minutes, and with gRPC's own for 20 seconds.
    assert asyncio.run(scene()) == [5_000, 5_000]


def test_bulk_data_has_a_connection_of_its_own() -> None:
    peers: list[str] = []

    async def scene() -> None:
        async with contextlib.AsyncExitStack() as stack:
            server = wire_server.serving(
                wire_server.FakeWorker(), admit=lambda context: peers.append(context.peer())
            )
            address = await stack.enter_async_context(server)
            for bulk in (False, False, True):
                channel = channels.open_channel(address, bulk=bulk)
                await get(await stack.enter_async_context(channel))

    asyncio.run(scene())
    assert peers[0] == peers[1]
    assert peers[2] != peers[0]


def test_a_thread_reads_without_help_of_another() -> None:
    caller = worker_pb2.Caller(engine_id="quiet:600")
    request = worker_pb2.WatchGenerationsRequest(caller=caller).SerializeToString()

    def read(address: str) -> set[threading.Thread]:
        before = set(threading.enumerate())
        with channels.open_reading_channel(address) as channel:
            watch = channel.unary_stream("/kubediffusion.v1.WorkerService/WatchGenerations")
            stream = watch(request)
            next(iter(stream))
            return set(threading.enumerate()) - before

    async def scene() -> set[threading.Thread]:
        async with wire_server.serving(wire_server.FakeWorker()) as address:
            return await asyncio.to_thread(read, address)

    assert asyncio.run(scene()) == set()


def test_a_connection_carries_256_streams_and_the_next_one_waits() -> None:
    async def scene() -> None:
        async with (
            wire_server.serving(wire_server.FakeWorker()) as address,
            channels.open_channel(address) as channel,
        ):
            caller = worker_pb2.Caller(engine_id="quiet:600")
            request = worker_pb2.WatchGenerationsRequest(caller=caller)
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            calls = [stub.WatchGenerations(request) for _ in range(256)]
            await asyncio.gather(*(call.read() for call in calls))
            last = asyncio.ensure_future(stub.WatchGenerations(request).read())
            done, _ = await asyncio.wait([last], timeout=0.5)
            assert not done
            calls[0].cancel()
            response = await last
            assert response.is_live

    asyncio.run(scene())


def test_a_lost_worker_is_looked_for_again_at_once(scenes: Scenes) -> None:
    # A channel without the first pause of ours waits for a second after each attempt.
    assert int(scenes.first_pause.line()) < 4


def test_a_worker_that_is_away_for_long_is_looked_for_all_the_time(scenes: Scenes) -> None:
    # A channel without the last pause of ours waits ever longer.
    assert int(scenes.last_pause.line()) < 12


def test_a_stopped_worker_is_noticed_on_a_stream_of_events(scenes: Scenes) -> None:
    assert scenes.busy_client.line() == "WorkerGoneError"


def test_a_stopped_worker_is_noticed_on_a_silent_stream(scenes: Scenes) -> None:
    assert scenes.silent_client.line() == "WorkerGoneError"


def test_a_stopped_worker_is_noticed_without_any_call(scenes: Scenes) -> None:
    assert scenes.idle_client.line() == "lost"


def test_a_stopped_client_is_noticed_by_the_worker(scenes: Scenes) -> None:
    said = [scenes.left_server.line() for _ in range(3)]
    assert said[-1] == "watch of quiet:600 ends"


def test_a_dead_client_without_any_call_is_noticed_by_the_worker(scenes: Scenes) -> None:
    # Client b, who comes first, has a server that waits for pongs as long as gRPC does by
    # default.
    said = []
    while not said or not said[-1].endswith("is left"):
        said.append(scenes.dead_clients.line())
    assert sorted(said[:-1]) == ["a is pinged", "b is pinged"]
    assert said[-1] == "a is left"


def test_a_worker_that_stops_after_a_long_silence_is_noticed_as_soon(scenes: Scenes) -> None:
    # By now, after the test before, three pings have been sent with no data in between; by
    # default gRPC would go on with one a minute.
    scenes.late_server.stop()
    assert scenes.late_client.line(timeout=30) == "WorkerGoneError"


def test_a_silent_stream_survives_a_minute_of_pings(scenes: Scenes) -> None:
    assert scenes.patient_client.line(timeout=SILENCE + 60) == "after the silence"

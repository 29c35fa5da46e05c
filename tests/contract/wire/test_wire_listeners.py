import asyncio
import contextlib
import os
import pathlib
import socket
import stat
import tempfile
from collections.abc import Iterator

import grpc.aio
import pytest

import wire_programs
import wire_server
from kubediffusion_proto.v1 import worker_pb2, worker_pb2_grpc
from kubediffusion_wire import addresses, channels, errors, status


@pytest.fixture
def path() -> Iterator[pathlib.Path]:
    # Not tmp_path, which can be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="wire") as folder:
        yield pathlib.Path(folder, "worker.sock")


async def get(address: str) -> str:
    async with channels.open_channel(address) as channel:
        with status.map_errors():
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            response = await stub.GetWorker(worker_pb2.GetWorkerRequest())
        return response.worker.name


async def serve_and_get(address: str) -> str:
    async with wire_server.serving(wire_server.FakeWorker(), address) as listening:
        return await get(listening)


def mode_of(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def listen_twice(address: str) -> None:
    """Serves on an address and once more on what came of it."""

    async def scene() -> None:
        async with wire_server.serving(wire_server.FakeWorker(), address) as listening:
            try:
                async with wire_server.serving(wire_server.FakeWorker(), listening):
                    pass
            finally:
                assert await get(listening) == "fake"

    asyncio.run(scene())


def listen(address: str, *, insecure: bool = False) -> addresses.Address:
    async def scene() -> addresses.Address:
        server = grpc.aio.server(options=channels.SERVER_OPTIONS)
        listening = channels.add_listener(server, address, insecure=insecure)
        await server.start()
        await server.stop(0)
        return listening

    return asyncio.run(scene())


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0"])
def test_a_free_port_is_found_and_told(address: str) -> None:
    assert asyncio.run(serve_and_get(address)) == "fake"
    assert listen(address).port > 0


def test_a_port_cannot_be_listened_on_twice() -> None:
    with pytest.raises(channels.ListenError, match=r"cannot listen on 127.0.0.1:\d+: in use"):
        listen_twice("127.0.0.1:0")


def test_a_port_of_another_process_cannot_be_listened_on() -> None:
    with wire_programs.Program("wire_server", "127.0.0.1:0") as server:
        address = server.line()
        with pytest.raises(channels.ListenError, match="in use"):
            listen(address)


def test_a_port_that_anybody_else_holds_cannot_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(channels.ListenError, match="in use"):
            listen(address)


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    # Of the block for documentation, RFC 5737.
    with pytest.raises(channels.ListenError, match="not an address of this machine"):
        listen("192.0.2.1:0", insecure=True)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_plaintext_beyond_loopback_must_be_asked_for(address: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="allow plaintext explicitly"):
        listen(address)
    with pytest.raises(errors.InvalidRequestError, match="allow plaintext explicitly"):
        channels.open_channel(address)


def test_plaintext_beyond_loopback_is_given_when_asked_for() -> None:
    assert listen("0.0.0.0:0", insecure=True).port > 0


def test_a_unix_socket_is_for_its_owner_alone(path: pathlib.Path) -> None:
    async def scene() -> int:
        async with wire_server.serving(wire_server.FakeWorker(), f"unix:{path}") as listening:
            assert await get(listening) == "fake"
            return mode_of(path)

    previous = os.umask(0)
    try:
        assert asyncio.run(scene()) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(previous)


def test_a_unix_socket_in_use_is_left_alone(path: pathlib.Path) -> None:
    with pytest.raises(channels.ListenError, match="another process listens there"):
        listen_twice(f"unix:{path}")


def test_the_unix_socket_of_a_dead_process_is_replaced(path: pathlib.Path) -> None:
    with wire_programs.Program("wire_server", f"unix:{path}") as server:
        server.line()
    assert path.exists()
    assert asyncio.run(serve_and_get(f"unix:{path}")) == "fake"


def test_a_file_that_is_no_socket_is_left_alone(path: pathlib.Path) -> None:
    path.write_text("precious")
    with pytest.raises(channels.ListenError, match="a file that is no socket"):
        listen(f"unix:{path}")
    assert path.read_text() == "precious"


def test_a_link_to_a_socket_is_left_alone(path: pathlib.Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(channels.ListenError, match="a file that is no socket"):
        listen(f"unix:{path}")


def test_a_unix_socket_needs_a_folder(path: pathlib.Path) -> None:
    with pytest.raises(channels.ListenError, match="its folder does not exist"):
        listen(f"unix:{path.parent}/missing/worker.sock")


def test_a_unix_socket_goes_with_its_server(path: pathlib.Path) -> None:
    asyncio.run(serve_and_get(f"unix:{path}"))
    assert not path.exists()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        bytes(range(256)) * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
    ],
)
def test_garbage_closes_its_connection_and_nothing_else(garbage: bytes) -> None:
    async def scene() -> None:
        async with wire_server.serving(wire_server.FakeWorker()) as address:
            target = addresses.parse(address)
            reader, writer = await asyncio.open_connection(target.host, target.port)
            writer.write(garbage)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            assert await get(address) == "fake"

    asyncio.run(scene())

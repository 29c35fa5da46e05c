"""Checkpoints and drains through every link, over sockets and in this process."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator

import pytest

import cutting_proxy
import scripted_worker
from kubediffusion._links import actor, deadlines, inprocess, protocol, remote
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import chunks, errors

ENGINE = worker_pb2.Caller(engine_id="e", epoch=1, role=worker_pb2.ROLE_ENGINE)
OPERATOR = worker_pb2.Caller(engine_id="e", role=worker_pb2.ROLE_OPERATOR)
LIMITS = deadlines.Deadlines(describe=30.0)
TAKE = worker_pb2.TakeCheckpointRequest(caller=ENGINE, request_id="r")

kinds = pytest.mark.parametrize("kind", ["remote", "in-process"])


@contextlib.asynccontextmanager
async def linked(
    kind: str, service: scripted_worker.ScriptedService
) -> AsyncIterator[protocol.WorkerLink]:
    """Gives a link to a service that holds the generation `r`."""
    await service.submit_generation(
        worker_pb2.SubmitGenerationRequest(caller=ENGINE, request_id="r")
    )
    if kind == "in-process":
        yield inprocess.InProcessLink("w", service)
        return
    server, address = await scripted_worker.serve(service, "127.0.0.1:0")
    link = remote.RemoteLink("w", address, limits=LIMITS)
    try:
        yield link
    finally:
        await link.close()
        await server.stop(0)


@kinds
def test_a_checkpoint_is_taken_and_fetched(kind: str) -> None:
    async def scenario() -> None:
        async with linked(kind, scripted_worker.ScriptedService()) as link:
            taken = (await link.take_checkpoint(TAKE)).checkpoint
            fetched = await link.fetch_checkpoint("e", "r")
            assert fetched.info == taken
            assert fetched.data == scripted_worker.checkpoint_bytes("r", 1)
            assert hashlib.sha256(fetched.data).hexdigest() == taken.sha256

    asyncio.run(scenario())


@kinds
def test_an_older_checkpoint_is_fetched_by_its_step(kind: str) -> None:
    async def scenario() -> None:
        async with linked(kind, scripted_worker.ScriptedService()) as link:
            for _ in "12":
                await link.take_checkpoint(TAKE)
            older, newest = (
                await link.fetch_checkpoint("e", "r", 1),
                await link.fetch_checkpoint("e", "r"),
            )
            assert (older.info.step, newest.info.step) == (1, 2)

    asyncio.run(scenario())


@kinds
def test_a_checkpoint_that_does_not_exist_is_not_found(kind: str) -> None:
    async def scenario() -> None:
        async with linked(kind, scripted_worker.ScriptedService()) as link:
            with pytest.raises(errors.CheckpointNotFoundError):
                await link.fetch_checkpoint("e", "r")

    asyncio.run(scenario())


@kinds
def test_a_checkpoint_with_a_flipped_byte_is_refused(kind: str) -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        async with linked(kind, service) as link:
            await link.take_checkpoint(TAKE)
            service.corrupt = True
            with pytest.raises(errors.CorruptDataError):
                await link.fetch_checkpoint("e", "r")

    asyncio.run(scenario())


@kinds
@pytest.mark.parametrize("size", [0, 1, chunks.CHUNK_SIZE, 3 * chunks.CHUNK_SIZE + 5])
def test_an_import_arrives_whole_whatever_its_size(kind: str, size: int) -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        data = bytearray(index % 251 for index in range(size))
        info = worker_pb2.CheckpointInfo(
            step=4, size=size, sha256=hashlib.sha256(data).hexdigest()
        )
        async with linked(kind, service) as link:
            reference = await link.import_checkpoint(ENGINE, "r", info, data)
            assert service.imported[reference] == data

    asyncio.run(scenario())


@kinds
def test_an_import_of_other_bytes_is_refused(kind: str) -> None:
    async def scenario() -> None:
        info = worker_pb2.CheckpointInfo(step=4, size=3, sha256="0" * 64)
        async with linked(kind, scripted_worker.ScriptedService()) as link:
            with pytest.raises(errors.InvalidCheckpointError):
                await link.import_checkpoint(ENGINE, "r", info, b"abc")

    asyncio.run(scenario())


@kinds
def test_a_drain_and_its_end_go_through_a_link(kind: str) -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        async with linked(kind, service) as link:
            drain = worker_pb2.DrainRequest(
                caller=OPERATOR, policy=worker_pb2.DRAIN_POLICY_CHECKPOINT
            )
            assert (await link.drain(drain)).state == worker_pb2.WORKER_STATE_DRAINED
            assert service.drained == [worker_pb2.DRAIN_POLICY_CHECKPOINT]
            undrain = worker_pb2.UndrainRequest(caller=OPERATOR)
            assert (await link.undrain(undrain)).state == worker_pb2.WORKER_STATE_SERVING

    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def proxied(
    service: scripted_worker.ScriptedService,
) -> AsyncIterator[tuple[remote.RemoteLink, cutting_proxy.CuttingProxy]]:
    await service.submit_generation(
        worker_pb2.SubmitGenerationRequest(caller=ENGINE, request_id="r")
    )
    server, address = await scripted_worker.serve(service, "127.0.0.1:0")
    proxy = await cutting_proxy.CuttingProxy(address).start()
    link = remote.RemoteLink("w", proxy.address, limits=LIMITS)
    try:
        yield link, proxy
    finally:
        await link.close()
        await proxy.close()
        await server.stop(0)


def test_a_broken_fetch_of_a_checkpoint_goes_on_where_it_broke() -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        async with proxied(service) as (link, proxy):
            await link.take_checkpoint(TAKE)
            proxy.cut_after(2 * chunks.CHUNK_SIZE + 100_000)
            fetched = await link.fetch_checkpoint("e", "r")
            assert fetched.data == scripted_worker.checkpoint_bytes("r", 1)
            assert proxy.spent.is_set()
            first, second = service.fetch_offsets
            assert first == 0
            # What lay in buffers when the cut came is sent again; that may be all of it.
            assert second in range(0, len(fetched.data), chunks.CHUNK_SIZE)

    asyncio.run(scenario())


def test_a_fetch_of_the_newest_goes_on_with_the_same_after_a_break() -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        async with proxied(service) as (link, proxy):
            await link.take_checkpoint(TAKE)
            service.held.clear()
            proxy.cut_after(chunks.CHUNK_SIZE + 100_000)
            fetching = asyncio.ensure_future(link.fetch_checkpoint("e", "r"))
            await proxy.spent.wait()
            await service.take_checkpoint(TAKE)
            service.held.set()
            assert (await fetching).info.step == 1

    asyncio.run(scenario())


def test_a_cut_during_an_import_is_told_and_it_can_be_repeated() -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        data = scripted_worker.checkpoint_bytes("r", 1)
        info = worker_pb2.CheckpointInfo(
            step=1, size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        async with proxied(service) as (link, proxy):
            await link.get_worker()
            proxy.stall()
            sending = asyncio.ensure_future(link.import_checkpoint(ENGINE, "r", info, data))
            await asyncio.sleep(0)
            proxy.cut()
            proxy.refuse()
            proxy.resume()
            with pytest.raises(errors.WorkerGoneError):
                await sending
            proxy.refuse(is_refusing=False)
            async with asyncio.timeout(60):
                while not service.imported:
                    with contextlib.suppress(errors.WorkerGoneError):
                        await link.import_checkpoint(ENGINE, "r", info, data)
            assert service.imported[info.sha256] == data

    asyncio.run(scenario())


def test_closing_a_link_ends_an_import_that_is_under_way() -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        data = scripted_worker.checkpoint_bytes("r", 1)
        info = worker_pb2.CheckpointInfo(step=1, size=len(data), sha256="0" * 64)
        async with proxied(service) as (link, proxy):
            await link.get_worker()
            proxy.stall()
            sending = asyncio.ensure_future(link.import_checkpoint(ENGINE, "r", info, data))
            await asyncio.sleep(0)
            await link.close()
            with pytest.raises(errors.WorkerGoneError):
                await sending

    asyncio.run(scenario())


def test_an_actor_knows_no_checkpoints_and_no_drains() -> None:
    class Bare:
        """Has no methods at all."""

    async def scenario() -> None:
        link = actor.ActorLink("a", Bare())
        calls = (
            link.take_checkpoint(TAKE),
            link.fetch_checkpoint("e", "r"),
            link.import_checkpoint(ENGINE, "r", worker_pb2.CheckpointInfo(), b""),
            link.drain(worker_pb2.DrainRequest(caller=OPERATOR)),
            link.undrain(worker_pb2.UndrainRequest(caller=OPERATOR)),
        )
        for call in calls:
            with pytest.raises(errors.NotImplementedByWorkerError):
                await call
        await link.close()

    asyncio.run(scenario())

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import cutting_proxy
import scripted_worker
from kubediffusion._links import deadlines, protocol, remote
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import chunks, errors

ENGINE = worker_pb2.Caller(engine_id="e", epoch=1, role=worker_pb2.ROLE_ENGINE)
LIMITS = deadlines.Deadlines(describe=30.0)


def submission(request_id: str) -> worker_pb2.SubmitGenerationRequest:
    return worker_pb2.SubmitGenerationRequest(caller=ENGINE, request_id=request_id)


@contextlib.asynccontextmanager
async def serving(
    service: scripted_worker.ScriptedService, address: str = "127.0.0.1:0"
) -> AsyncIterator[str]:
    server, bound = await scripted_worker.serve(service, address)
    try:
        yield bound
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def linked(address: str) -> AsyncIterator[remote.RemoteLink]:
    link = remote.RemoteLink("w", address, limits=LIMITS)
    try:
        yield link
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def proxied(
    service: scripted_worker.ScriptedService,
) -> AsyncIterator[tuple[remote.RemoteLink, cutting_proxy.CuttingProxy]]:
    async with serving(service) as address:
        proxy = await cutting_proxy.CuttingProxy(address).start()
        try:
            async with linked(proxy.address) as link:
                yield link, proxy
        finally:
            await proxy.close()


async def eventually(call: Callable[[], Awaitable[object]]) -> object:
    """Repeats a call while the worker is gone, as the engine's core does."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(errors.RetryElsewhereError):
                return await call()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_generation_goes_through_the_link(kind: str, tmp_path: pathlib.Path) -> None:
    async def scenario() -> None:
        address = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/w.sock"
        service = scripted_worker.ScriptedService()
        async with serving(service, address) as bound, linked(bound) as link:
            assert (await link.submit_generation(submission("r"))).is_created
            result = await link.fetch_result("e", "r")
            assert result.data == scripted_worker.result_bytes("r")
            ack = worker_pb2.AckGenerationRequest(caller=ENGINE, request_id="r")
            assert (await link.ack_generation(ack)).is_released

    asyncio.run(scenario())


def test_a_remote_link_is_a_worker_link() -> None:
    async def scenario() -> None:
        async with linked("127.0.0.1:1") as link:
            assert isinstance(link, protocol.WorkerLink)
            assert (link.name, link.address, link.is_gone) == ("w", "127.0.0.1:1", False)

    asyncio.run(scenario())


def test_a_watch_replays_and_goes_on() -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        async with serving(service) as address, linked(address) as link:
            await link.submit_generation(submission("before"))
            watch = link.watch_generations(worker_pb2.WatchGenerationsRequest(caller=ENGINE))
            seen = []
            async for response in watch:
                seen += [event.request_id for event in response.events]
                if seen == ["before"]:
                    await link.submit_generation(submission("after"))
                if len(seen) == 2:
                    break
            assert seen == ["before", "after"]

    asyncio.run(scenario())


def test_a_worker_that_is_not_there_is_gone() -> None:
    async def scenario() -> None:
        async with linked("127.0.0.1:1") as link:
            with pytest.raises(errors.WorkerGoneError):
                await link.get_worker()

    asyncio.run(scenario())


def test_an_error_of_the_worker_keeps_its_type() -> None:
    async def scenario() -> None:
        async with serving(scripted_worker.ScriptedService()) as address, linked(address) as link:
            with pytest.raises(errors.GenerationNotFoundError):
                await link.fetch_result("e", "unknown")
            with pytest.raises(errors.NotImplementedByWorkerError):
                await link.pause_generation(worker_pb2.PauseGenerationRequest(caller=ENGINE))

    asyncio.run(scenario())


def test_a_call_that_is_not_answered_times_out() -> None:
    async def scenario() -> None:
        async with serving(scripted_worker.ScriptedService()) as address, linked(address) as link:
            with pytest.raises(errors.RpcTimeoutError):
                await link.call_method(worker_pb2.CallMethodRequest(method="sleep"), 0.2)

    asyncio.run(scenario())


def test_a_broken_fetch_goes_on_where_it_broke() -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        async with proxied(service) as (link, proxy):
            await link.submit_generation(submission("r"))
            proxy.cut_after(2 * chunks.CHUNK_SIZE + 100_000)
            result = await link.fetch_result("e", "r")
            assert result.data == scripted_worker.result_bytes("r")
            assert proxy.spent.is_set()
            first, second = service.fetch_offsets
            assert first == 0
            # What lay in buffers when the cut came is sent again; that may be all of it.
            assert second in range(0, len(result.data), chunks.CHUNK_SIZE)

    asyncio.run(scenario())


def test_a_result_with_a_flipped_byte_is_refused() -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        service.corrupt = True
        async with serving(service) as address, linked(address) as link:
            await link.submit_generation(submission("r"))
            with pytest.raises(errors.CorruptDataError):
                await link.fetch_result("e", "r")

    asyncio.run(scenario())


def test_a_result_other_than_the_announced_one_is_refused() -> None:
    async def scenario() -> None:
        async with serving(scripted_worker.ScriptedService()) as address, linked(address) as link:
            await link.submit_generation(submission("r"))
            with pytest.raises(errors.CorruptDataError):
                await link.fetch_result("e", "r", worker_pb2.Result(size=1, sha256="0" * 64))

    asyncio.run(scenario())


def test_a_cut_ends_a_watch_and_the_link_heals() -> None:
    async def scenario() -> None:
        async with proxied(scripted_worker.ScriptedService()) as (link, proxy):
            watch = link.watch_generations(worker_pb2.WatchGenerationsRequest(caller=ENGINE))
            await anext(watch)
            proxy.cut()
            with pytest.raises(errors.WorkerGoneError):
                await anext(watch)
            await eventually(link.get_worker)

    asyncio.run(scenario())


def test_a_link_survives_the_restart_of_its_worker(tmp_path: pathlib.Path) -> None:
    async def scenario() -> None:
        address = f"unix:{tmp_path}/w.sock"
        first, second = scripted_worker.ScriptedService(), scripted_worker.ScriptedService()
        async with linked(address) as link:
            async with serving(first, address):
                before = await link.get_worker()
            with pytest.raises(errors.WorkerGoneError):
                await link.get_worker()
            async with serving(second, address):
                after = await eventually(link.get_worker)
        assert isinstance(after, worker_pb2.GetWorkerResponse)
        assert before.worker.incarnation == first.incarnation
        assert after.worker.incarnation == second.incarnation

    asyncio.run(scenario())


def test_a_stalled_connection_times_out_and_heals() -> None:
    async def scenario() -> None:
        async with proxied(scripted_worker.ScriptedService()) as (link, proxy):
            await link.get_worker()
            proxy.stall()
            with pytest.raises(errors.RpcTimeoutError):
                await link.call_method(worker_pb2.CallMethodRequest(method="identity"), 0.3)
            proxy.resume()
            await eventually(link.get_worker)

    asyncio.run(scenario())


def test_closing_fails_what_is_under_way() -> None:
    async def scenario() -> None:
        async with serving(scripted_worker.ScriptedService()) as address, linked(address) as link:
            watch = link.watch_generations(worker_pb2.WatchGenerationsRequest(caller=ENGINE))
            await anext(watch)
            call = asyncio.ensure_future(
                link.call_method(worker_pb2.CallMethodRequest(method="sleep"))
            )
            following = asyncio.ensure_future(anext(watch))
            await link.get_worker()
            await link.close()
            await link.close()
            with pytest.raises(errors.WorkerGoneError):
                await call
            with pytest.raises(errors.WorkerGoneError):
                await following
            with pytest.raises(errors.WorkerGoneError):
                await link.get_worker()

    asyncio.run(scenario())


def test_cancelling_a_caller_is_no_error_of_the_worker() -> None:
    async def scenario() -> None:
        async with serving(scripted_worker.ScriptedService()) as address, linked(address) as link:
            call = asyncio.ensure_future(
                link.call_method(worker_pb2.CallMethodRequest(method="sleep"))
            )
            await link.get_worker()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(scenario())


def test_calls_to_a_worker_that_is_known_to_be_gone_fail_at_once() -> None:
    async def scenario() -> None:
        async with serving(scripted_worker.ScriptedService()) as address, linked(address) as link:
            link.mark_gone()
            assert link.is_gone
            with pytest.raises(errors.WorkerGoneError):
                await link.get_worker()

    asyncio.run(scenario())


def test_plaintext_to_another_machine_needs_permission() -> None:
    with pytest.raises(errors.InvalidRequestError):
        remote.RemoteLink("w", "worker.example:50051")

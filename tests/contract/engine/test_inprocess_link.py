import asyncio

import pytest

import scripted_worker
from kubediffusion._links import deadlines, inprocess, protocol
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

ENGINE = worker_pb2.Caller(engine_id="e", epoch=1, role=worker_pb2.ROLE_ENGINE)
SUBMISSION = worker_pb2.SubmitGenerationRequest(caller=ENGINE, request_id="r")


def link_to(service: scripted_worker.ScriptedService) -> inprocess.InProcessLink:
    return inprocess.InProcessLink("w", service)


def test_an_in_process_link_is_a_worker_link() -> None:
    link = link_to(scripted_worker.ScriptedService())
    assert isinstance(link, protocol.WorkerLink)
    assert (link.name, link.address, link.is_gone) == ("w", "in-process", False)


def test_a_generation_goes_through_the_runtime() -> None:
    async def scenario() -> None:
        link = link_to(scripted_worker.ScriptedService())
        assert (await link.submit_generation(SUBMISSION)).is_created
        result = await link.fetch_result("e", "r")
        assert result.data == scripted_worker.result_bytes("r")
        listing = link.list_generations(worker_pb2.ListGenerationsRequest())
        assert [g.request_id async for page in listing for g in page.generations] == ["r"]

    asyncio.run(scenario())


def test_a_corrupt_result_is_refused_in_process_too() -> None:
    async def scenario() -> None:
        service = scripted_worker.ScriptedService()
        service.corrupt = True
        link = link_to(service)
        await link.submit_generation(SUBMISSION)
        with pytest.raises(errors.CorruptDataError):
            await link.fetch_result("e", "r")

    asyncio.run(scenario())


def test_a_runtime_that_does_not_answer_times_out() -> None:
    async def scenario() -> None:
        limits = deadlines.Deadlines(method=0.05)
        link = inprocess.InProcessLink("w", scripted_worker.ScriptedService(), limits=limits)
        with pytest.raises(errors.RpcTimeoutError):
            await link.call_method(worker_pb2.CallMethodRequest(method="sleep"))

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["closed", "gone"])
def test_an_in_process_link_that_has_ended_refuses_calls(end: str) -> None:
    async def scenario() -> None:
        link = link_to(scripted_worker.ScriptedService())
        if end == "closed":
            await link.close()
        else:
            link.mark_gone()
        with pytest.raises(errors.WorkerGoneError):
            await link.get_worker()
        with pytest.raises(errors.WorkerGoneError):
            await anext(link.watch_generations(worker_pb2.WatchGenerationsRequest()))

    asyncio.run(scenario())

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from PIL import Image

from kubediffusion import _request
from kubediffusion._links import actor, deadlines, emulation, protocol
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

PATIENCE = 30.0
ENGINE = worker_pb2.Caller(engine_id="e", epoch=2, instance="i", role=worker_pb2.ROLE_ENGINE)
RED = (255, 0, 0)


class Painter:
    """An actor that paints red pictures, and may be told to wait."""

    def __init__(self) -> None:
        self.requests: list[_request.OmniDiffusionRequest] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def initialize(self) -> dict[str, str]:
        return {"status": "ready"}

    def generate(self, requests: Sequence[_request.OmniDiffusionRequest]) -> list[Any]:
        self.requests += requests
        self.may_go_on.wait(PATIENCE)
        return [Image.new("RGB", (4, 2), RED) for _ in requests]

    def execute_rpc(self, method: str, args: Any, kwargs: Any) -> Any:
        if method == "hang":
            threading.Event().wait(0.5)
        if method == "fail":
            raise LookupError("no such thing")
        return self if method == "self" else [method, list(args), kwargs]


@contextlib.asynccontextmanager
async def linked(worker: object, **options: Any) -> AsyncIterator[actor.ActorLink]:
    link = actor.ActorLink("a", worker, **options)
    try:
        await asyncio.wait_for(link.initialized(), PATIENCE)
        yield link
    finally:
        await link.close()


def submission(request_id: str = "r", **fields: Any) -> worker_pb2.SubmitGenerationRequest:
    options = {"caller": ENGINE, "spec": worker_pb2.GenerationSpec(prompt="red"), "attempt": 1}
    return worker_pb2.SubmitGenerationRequest(request_id=request_id, **{**options, **fields})


async def kinds(link: protocol.WorkerLink, *request_ids: str) -> list[str]:
    """Returns the kinds of all events until the named generations have ended."""
    watch = worker_pb2.WatchGenerationsRequest(
        caller=ENGINE, request_ids=request_ids, until_terminal=True
    )
    async with asyncio.timeout(PATIENCE):
        return [
            event.WhichOneof("event") or ""
            async for response in link.watch_generations(watch)
            for event in response.events
        ]


async def started(link: protocol.WorkerLink, request_id: str) -> None:
    """Waits until a generation runs."""
    watch = worker_pb2.WatchGenerationsRequest(caller=ENGINE, request_ids=[request_id])
    async with asyncio.timeout(PATIENCE):
        async for response in link.watch_generations(watch):
            if any(event.WhichOneof("event") == "started" for event in response.events):
                return


def test_an_actor_link_is_a_worker_link() -> None:
    async def scenario() -> None:
        async with linked(Painter()) as link:
            assert isinstance(link, protocol.WorkerLink)
            assert (link.name, link.address, link.is_gone) == ("a", "object Painter", False)
            worker = (await link.get_worker("e")).worker
            assert worker.state == worker_pb2.WORKER_STATE_SERVING
            assert not worker.parameters

    asyncio.run(scenario())


def test_a_generation_runs_through_the_actor() -> None:
    async def scenario() -> None:
        painter = Painter()
        async with linked(painter) as link:
            response = await link.submit_generation(submission())
            assert response.is_created
            assert await kinds(link, "r") == ["queued", "started", "succeeded"]
            result = await link.fetch_result("e", "r")
            (output,) = result.header.outputs
            assert list(output.shape) == [2, 4, 3]
            assert result.data == bytes(RED) * 8
            assert painter.requests[0].prompt == "red"
            assert painter.requests[0].seed == output.seed

    asyncio.run(scenario())


def test_the_same_submission_is_one_generation() -> None:
    async def scenario() -> None:
        painter = Painter()
        async with linked(painter) as link:
            first, second = [await link.submit_generation(submission()) for _ in "12"]
            assert (first.is_created, second.is_created) == (True, False)
            await kinds(link, "r")
            assert len(painter.requests) == 1
            other = worker_pb2.GenerationSpec(prompt="blue")
            with pytest.raises(errors.RequestConflictError):
                await link.submit_generation(submission(spec=other))

    asyncio.run(scenario())


def test_an_acknowledged_generation_is_not_run_again() -> None:
    async def scenario() -> None:
        async with linked(Painter()) as link:
            await link.submit_generation(submission())
            await kinds(link, "r")
            ack = worker_pb2.AckGenerationRequest(caller=ENGINE, request_id="r")
            assert (await link.ack_generation(ack)).is_released
            assert not (await link.ack_generation(ack)).is_released
            with pytest.raises(errors.GenerationNotFoundError):
                await link.fetch_result("e", "r")
            with pytest.raises(errors.AlreadyAcknowledgedError):
                await link.submit_generation(submission())

    asyncio.run(scenario())


def test_what_waits_can_be_cancelled_and_what_runs_cannot() -> None:
    async def scenario() -> None:
        painter = Painter()
        painter.may_go_on.clear()
        async with linked(painter) as link:
            await link.submit_generation(submission("running"))
            await link.submit_generation(submission("waiting"))
            await started(link, "running")
            cancel = worker_pb2.CancelGenerationRequest(caller=ENGINE, request_id="waiting")
            answer = await link.cancel_generation(cancel)
            assert answer.state == worker_pb2.GENERATION_STATE_CANCELLED
            cancel.request_id = "running"
            with pytest.raises(errors.NotImplementedByWorkerError, match="interrupted"):
                await link.cancel_generation(cancel)
            ack = worker_pb2.AckGenerationRequest(caller=ENGINE, request_id="running")
            with pytest.raises(errors.ResultNotReadyError):
                await link.ack_generation(ack)
            painter.may_go_on.set()
            assert await kinds(link, "waiting") == ["queued", "cancelled"]
            assert (await kinds(link, "running"))[-1] == "succeeded"
            assert [request.request_id for request in painter.requests] == ["running"]

    asyncio.run(scenario())


def test_higher_priority_runs_first() -> None:
    async def scenario() -> None:
        painter = Painter()
        painter.may_go_on.clear()
        async with linked(painter) as link:
            await link.submit_generation(submission("first"))
            await started(link, "first")
            for name, priority in (("low", -1), ("high", 5), ("also-high", 5)):
                await link.submit_generation(submission(name, priority=priority))
            painter.may_go_on.set()
            await kinds(link, "low", "high", "also-high")
        ran = [request.request_id for request in painter.requests]
        assert ran == ["first", "high", "also-high", "low"]

    asyncio.run(scenario())


def test_an_error_of_the_actor_fails_the_generation_and_no_other() -> None:
    class Moody(Painter):
        def generate(self, requests: Sequence[_request.OmniDiffusionRequest]) -> list[Any]:
            if requests[0].request_id == "bad":
                raise LookupError("no paint")
            return super().generate(requests)

    async def scenario() -> None:
        async with linked(Moody()) as link:
            await link.submit_generation(submission("bad"))
            await link.submit_generation(submission("good"))
            assert (await kinds(link, "bad"))[-1] == "failed"
            assert (await kinds(link, "good"))[-1] == "succeeded"
            (listed,) = [
                generation
                async for page in link.list_generations(
                    worker_pb2.ListGenerationsRequest(
                        engine_id="e", states=[worker_pb2.GENERATION_STATE_FAILED]
                    )
                )
                for generation in page.generations
            ]
            assert listed.error.reason == "PIPELINE_ERROR"
            assert listed.error.message == "LookupError: no paint"
            with pytest.raises(errors.ResultNotReadyError):
                await link.fetch_result("e", "bad")

    asyncio.run(scenario())


def test_a_deadline_that_has_passed_fails_the_generation() -> None:
    async def scenario() -> None:
        painter = Painter()
        async with linked(painter) as link:
            late = submission()
            late.deadline.FromSeconds(1)
            await link.submit_generation(late)
            assert (await kinds(link, "r"))[-1] == "failed"
            assert not painter.requests

    asyncio.run(scenario())


def test_a_stale_engine_is_fenced() -> None:
    async def scenario() -> None:
        async with linked(Painter()) as link:
            await link.submit_generation(submission())
            assert (await link.get_worker("e")).engine_epoch == 2
            stale = worker_pb2.Caller(engine_id="e", epoch=1, role=worker_pb2.ROLE_ENGINE)
            with pytest.raises(errors.StaleEpochError):
                await link.submit_generation(submission("s", caller=stale))
            ack = worker_pb2.AckGenerationRequest(caller=stale, request_id="r")
            with pytest.raises(errors.StaleEpochError):
                await link.ack_generation(ack)

    asyncio.run(scenario())


def test_a_watch_goes_on_after_what_was_seen() -> None:
    async def scenario() -> None:
        async with linked(Painter()) as link:
            await link.submit_generation(submission())
            await kinds(link, "r")
            watch = worker_pb2.WatchGenerationsRequest(
                caller=ENGINE,
                request_ids=["r"],
                after_sequences={"r": 2},
                until_terminal=True,
            )
            events = [e async for page in link.watch_generations(watch) for e in page.events]
            assert [event.sequence for event in events] == [3]

    asyncio.run(scenario())


def test_too_many_waiting_generations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "MAX_UNFINISHED", 2)

    async def scenario() -> None:
        painter = Painter()
        painter.may_go_on.clear()
        async with linked(painter) as link:
            for name in ("1", "2"):
                await link.submit_generation(submission(name))
            with pytest.raises(errors.QueueFullError):
                await link.submit_generation(submission("3"))
            painter.may_go_on.set()

    asyncio.run(scenario())


def test_methods_run_through_execute_rpc() -> None:
    async def scenario() -> None:
        painter = Painter()
        async with linked(painter, limits=deadlines.Deadlines(method=0.05)) as link:
            assert await link.call_python("m", (1,), {"a": 2}) == ["m", [1], {"a": 2}]
            assert await link.call_python("self", (), {}) is painter
            with pytest.raises(LookupError):
                await link.call_python("fail", (), {})
            with pytest.raises(errors.RpcTimeoutError):
                await link.call_python("hang", (), {})
            response = await link.call_method(worker_pb2.CallMethodRequest(method="m"))
            assert response.value.list.items[0].text == "m"

    asyncio.run(scenario())


def test_what_an_actor_lacks_is_refused() -> None:
    class Bare:
        """Has no methods at all."""

    async def scenario() -> None:
        async with linked(Bare()) as link:
            with pytest.raises(errors.NotImplementedByWorkerError, match="no generate"):
                await link.submit_generation(submission())
            with pytest.raises(errors.NotImplementedByWorkerError, match="no execute_rpc"):
                await link.call_python("m", (), {})
            with pytest.raises(errors.NotImplementedByWorkerError):
                await link.pause_generation(worker_pb2.PauseGenerationRequest())
            with pytest.raises(errors.NotImplementedByWorkerError):
                await link.load_adapter(worker_pb2.LoadAdapterRequest())
            assert await link.rank() is None

    asyncio.run(scenario())


def test_an_encoding_that_nobody_makes_is_refused_at_once() -> None:
    async def scenario() -> None:
        async with linked(Painter()) as link:
            spec = worker_pb2.GenerationSpec(prompt="red")
            spec.output.encoding = worker_pb2.ENCODING_PNG
            with pytest.raises(errors.InvalidRequestError, match="encoding"):
                await link.submit_generation(submission(spec=spec))

    asyncio.run(scenario())


def test_a_failed_initialize_fails_submissions() -> None:
    class Broken(Painter):
        def initialize(self) -> dict[str, str]:
            raise OSError("no device")

    async def scenario() -> None:
        async with linked(Broken()) as link:
            state = (await link.get_worker()).worker.state
            assert state == worker_pb2.WORKER_STATE_FAILED
            with pytest.raises(errors.WorkerFailedError, match="no device"):
                await link.submit_generation(submission())

    asyncio.run(scenario())


def test_closing_ends_watches() -> None:
    async def scenario() -> None:
        async with linked(Painter()) as link:
            watch = link.watch_generations(worker_pb2.WatchGenerationsRequest(caller=ENGINE))
            await anext(watch)
            following = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            await link.close()
            await link.close()
            with pytest.raises(errors.WorkerGoneError):
                await asyncio.wait_for(following, PATIENCE)
            with pytest.raises(errors.WorkerGoneError):
                await link.get_worker()

    asyncio.run(scenario())


def test_async_actors_run_on_the_loop() -> None:
    class Async:
        async def generate(self, requests: Sequence[Any]) -> Any:
            assert threading.current_thread() is threading.main_thread()
            return Image.new("L", (1, 1), 7)

    async def scenario() -> None:
        async with linked(Async()) as link:
            await link.submit_generation(submission())
            assert (await kinds(link, "r"))[-1] == "succeeded"
            assert (await link.fetch_result("e", "r")).data == b"\x07"

    asyncio.run(scenario())

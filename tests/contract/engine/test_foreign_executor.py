import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

import scripted_executor
from kubediffusion import _loop
from kubediffusion._links import protocol
from kubediffusion.executors import abstract
from kubediffusion_proto.v1 import worker_pb2

PATIENCE = 30.0


class Plain(abstract.DiffusionExecutor):
    """An executor of the user's, which has never heard of links."""

    def _init_executor(self) -> None:
        self.seen: list[str] = []

    def add_requests(self, requests: Sequence[Any]) -> Any:
        self.seen += [request.prompt for request in requests]
        return [Image.new("L", (1, 1), 9) for _ in requests]

    def collective_rpc(
        self,
        method: str,
        timeout: Any = None,
        args: Any = (),
        kwargs: Any = None,
        unique_reply_rank: Any = None,
    ) -> Any:
        return [method]

    def check_health(self) -> None:
        """Is well."""

    def shutdown(self) -> None:
        """Has nothing to end."""


async def only_link(executor: abstract.DiffusionExecutor) -> protocol.WorkerLink:
    async for (link,) in executor.links().changes():
        return link
    raise AssertionError("there are no links")


def test_an_executor_with_add_requests_alone_is_reached_by_a_link() -> None:
    async def scenario(executor: Plain) -> bytearray:
        link = await only_link(executor)
        assert await only_link(executor) is link
        assert link.address == "executor Plain"
        request = worker_pb2.SubmitGenerationRequest(
            caller=worker_pb2.Caller(engine_id="e"),
            request_id="r",
            spec=worker_pb2.GenerationSpec(prompt="grey"),
        )
        await link.submit_generation(request)
        watch = worker_pb2.WatchGenerationsRequest(
            caller=request.caller, request_ids=["r"], until_terminal=True
        )
        async with asyncio.timeout(PATIENCE):
            async for _ in link.watch_generations(watch):
                pass
        result = await link.fetch_result("e", "r")
        await link.close()
        return bytearray(result.data)

    loop = _loop.EngineLoop()
    executor = Plain(scripted_executor.config())
    executor.start(loop)
    assert loop.run(scenario(executor)) == b"\x09"
    assert executor.seen == ["grey"]
    loop.close()


def test_the_configuration_has_both_names() -> None:
    config = scripted_executor.config()
    executor = Plain(config)
    assert executor.config is executor.od_config is config


def test_an_incomplete_executor_cannot_be_built() -> None:
    class Incomplete(abstract.DiffusionExecutor):
        """Lacks everything."""

    with pytest.raises(TypeError, match="abstract"):
        Incomplete(scripted_executor.config())  # type: ignore[abstract]  # that is the test

"""The worker with real pipelines of diffusers, tiny ones with random weights."""

import asyncio
import functools
import io
import pathlib
from typing import Any

import numpy
import PIL.Image
import pytest

import zoo
import zoo_requests
from callers import Calls, Client, names
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import channels, errors, tensors
from kubediffusion_worker import config, pipeline, runtime, server, testing
from served import Process, a_process, connected, run_to_end

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

SETTINGS = config.WorkerConfig(model=testing.FAKE_MODEL)
WORKER = "kubediffusion_worker"


@functools.cache
def plain(name: str, seed: int, steps: int = 3) -> list[numpy.ndarray[Any, Any]]:
    """Computed by a pipeline that our code has never seen."""
    return zoo_requests.arrays_of_plain(zoo.call_plainly(zoo.build(name), seed=seed, steps=steps))


def spec(name: str, *, steps: int = 3, **fields: Any) -> worker_pb2.GenerationSpec:
    return zoo_requests.spec_of(zoo.shared(name), steps=steps, **fields)


async def arrays(client: Client, request_id: str) -> list[numpy.ndarray[Any, Any]]:
    data = await client.result(request_id)
    header, _ = await client.fetch(request_id, len(data))
    return [
        numpy.frombuffer(
            data[output.offset : output.offset + output.size],
            tensors.dtype_from_wire(output.dtype),
        ).reshape(tuple(output.shape))
        for output in header.outputs
    ]


def same(found: list[numpy.ndarray[Any, Any]], wanted: list[numpy.ndarray[Any, Any]]) -> bool:
    return len(found) == len(wanted) and all(
        numpy.array_equal(one, other) for one, other in zip(found, wanted, strict=True)
    )


def tell(name: str, story: Any) -> None:
    """Let a story happen with a worker that serves a pipeline of the zoo over TCP."""

    async def told() -> None:
        def load() -> pipeline.SharedPipeline:
            return pipeline.SharedPipeline.from_pipeline(zoo.shared(name).pipeline)

        worker = runtime.WorkerRuntime(SETTINGS, load=load)
        await worker.start()
        front = server.Server(worker, "127.0.0.1:0")
        address = str(await front.start())
        try:
            async with channels.open_channel(address) as channel:
                await worker.serving()
                await story(Client(Calls(channel)))
        finally:
            await worker.close(0.0)
            await front.stop()

    asyncio.run(told())


@pytest.mark.parametrize("name", ["sd15", "flux", "wan"])
def test_a_result_has_the_bits_of_plain_diffusers(name: str) -> None:
    async def story(client: Client) -> None:
        await client.submit("a", spec=spec(name, seed=5))
        assert same(await arrays(client, "a"), plain(name, 5))

    tell(name, story)


def test_progress_counts_the_steps_of_the_loop() -> None:
    async def story(client: Client) -> None:
        await client.submit("a", spec=spec("sd15", steps=6, seed=1))
        events = await client.events("a")
        assert names(events)[:2] == ["queued", "started"]
        last = [event.progress for event in events if event.HasField("progress")][-1]
        assert (last.step, last.total) == (6, 6)

    tell("sd15", story)


def test_a_cancel_takes_effect_and_leaves_the_pipeline_as_it_was() -> None:
    async def story(client: Client) -> None:
        await client.submit("a", spec=spec("sd15", steps=900, seed=1))
        await client.until("progress", "a")
        await client.cancel("a")
        cancelled = (await client.end("a")).cancelled
        assert 0 < cancelled.step < 900
        await client.submit("b", spec=spec("sd15", seed=2))
        assert same(await arrays(client, "b"), plain("sd15", 2))

    tell("sd15", story)


def test_a_request_that_the_pipeline_refuses_fails_alone() -> None:
    async def story(client: Client) -> None:
        refused: errors.KubediffusionError | None = None
        try:
            await client.submit("a", spec=spec("sd15", height=33, seed=1))
            event = await client.end("a")
            refused = errors.from_message(event.failed.error)
        except errors.InvalidRequestError as error:
            refused = error
        assert isinstance(refused, errors.InvalidRequestError)
        await client.submit("b", spec=spec("sd15", seed=2))
        assert same(await arrays(client, "b"), plain("sd15", 2))

    tell("sd15", story)


def test_an_image_can_be_had_as_a_file() -> None:
    async def story(client: Client) -> None:
        asked = spec("sd15", seed=5)
        asked.output.encoding = worker_pb2.ENCODING_PNG
        await client.submit("a", spec=asked)
        picture = PIL.Image.open(io.BytesIO(await client.result("a")))
        assert picture.format == "PNG"
        assert numpy.array_equal(numpy.asarray(picture), plain("sd15", 5)[0])

    tell("sd15", story)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    zoo.shared("sd15").pipeline.save_pretrained(path)
    return path


def test_a_process_serves_a_folder(folder: pathlib.Path) -> None:
    async def story(worker: Process) -> None:
        async with connected(worker.address) as client:
            found = await client.serving()
            assert found.model.id == "tiny"
            assert found.model.pipeline == "StableDiffusionPipeline"
            await client.submit("a", spec=spec("sd15", seed=5))
            assert same(await arrays(client, "a"), plain("sd15", 5))
            await client.acknowledge("a")

    with a_process(module=WORKER, model=str(folder)) as worker:
        asyncio.run(story(worker))
        worker.signal()
        assert worker.wait() == 0


def test_a_model_that_cannot_be_loaded_is_one_clear_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "missing"
    ended = run_to_end("--model", str(path), "--log-level", "ERROR", module=WORKER)
    assert ended.returncode == 3
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, lines
    assert f"cannot serve model {str(path)!r}" in lines[0]

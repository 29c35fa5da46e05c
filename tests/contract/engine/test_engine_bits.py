"""Whatever the way to the worker: the pixels are those of plain diffusers."""

import contextlib
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch

import kubediffusion
import served
import zoo
import zoo_requests

SEEDS = (3, 4)
STEPS = 3

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(name="model", scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    zoo.build("sd15").pipeline.save_pretrained(folder)
    return folder


def requests(**fields: Any) -> list[kubediffusion.OmniDiffusionRequest]:
    """Return what asks a worker for what `plain` computes."""
    arguments = dict(zoo.shared("sd15").arguments)
    return [
        kubediffusion.OmniDiffusionRequest(
            **arguments, seed=seed, num_inference_steps=STEPS, **fields
        )
        for seed in SEEDS
    ]


@functools.cache
def plain() -> list[numpy.ndarray[Any, Any]]:
    returned = [zoo.call_plainly(zoo.build("sd15"), seed=seed, steps=STEPS) for seed in SEEDS]
    return [array for each in returned for array in zoo_requests.arrays_of_plain(each)]


@contextlib.contextmanager
def external(model: pathlib.Path, transport: str) -> Iterator[dict[str, Any]]:
    with served.short_folder() as folder:
        listen = "127.0.0.1:0" if transport == "tcp" else f"unix:{folder}/w.sock"
        with served.a_process(
            *("--listen", listen, "--threads", "1", "--log-level", "error"),
            module="kubediffusion_worker",
            model=str(model),
        ) as worker:
            yield {
                "distributed_executor_backend": "external_launcher",
                "workers": [worker.address],
            }


@contextlib.contextmanager
def way(name: str, model: pathlib.Path) -> Iterator[dict[str, Any]]:
    if name in ("tcp", "unix"):
        with external(model, name) as options:
            yield options
    else:
        yield {"model": str(model), "distributed_executor_backend": name, "threads": 1}


@pytest.mark.parametrize("name", ["uni", "mp", "tcp", "unix"])
def test_images_have_the_bits_of_plain_diffusers(name: str, model: pathlib.Path) -> None:
    with way(name, model) as options, kubediffusion.DiffusionEngine(**options) as engine:
        outputs = engine.step(requests())
    found = [numpy.asarray(output.images[0]) for output in outputs]
    for one, other in zip(found, plain(), strict=True):
        assert numpy.array_equal(one, other)
    assert [output.exactness for output in outputs] == ["exact", "exact"]


def test_all_output_types_tell_of_the_same_picture(model: pathlib.Path) -> None:
    with way("uni", model) as options, kubediffusion.DiffusionEngine(**options) as engine:
        picture = numpy.asarray(engine.step(requests())[0].images[0])
        array = engine.step(requests(output_type="np"))[0].images[0]
        tensor = engine.step(requests(output_type="pt"))[0].images[0]
        latents = engine.step(requests(output_type="latent"))[0].latents
        encoded = engine.step(requests(encoding="png"))[0]
    assert array.dtype == numpy.float32
    assert numpy.array_equal((array * 255).round().astype("u1"), picture)
    assert torch.equal(tensor, torch.from_numpy(array).permute(2, 0, 1))
    assert latents.shape == (4, 16, 16)
    assert encoded.encodings == ["png"]
    assert encoded.files[0].startswith(b"\x89PNG")
    assert numpy.array_equal(numpy.asarray(encoded.images[0]), picture)

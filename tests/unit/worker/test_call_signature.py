from collections.abc import Callable
from typing import Any, Literal

import numpy
import PIL.Image
import pytest
import torch

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import signature


class Pipeline:
    def __call__(
        self,
        steps: int,
        prompt: str | list[str],
        image: PIL.Image.Image | numpy.ndarray[Any, Any] | list[torch.Tensor] | None = None,
        latents: torch.FloatTensor | None = None,
        guidance_scale: int = 7.5,  # type: ignore[assignment]  # as some pipelines have it
        mode: Literal["fast", "good"] = "fast",
        options: dict[str, Any] | None = None,
        unknown=None,  # type: ignore[no-untyped-def]  # as some pipelines have it
        later: "NotThere | None" = None,  # type: ignore[name-defined]  # noqa: F821  # as some pipelines have it
        named: "float | None" = None,
        prompt_embeds: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[int], None] | None = None,
        on_chunk: Callable[[int], None] | None = None,
        **kwargs: Any,
    ) -> None: ...


@pytest.fixture(scope="module")
def parameters() -> dict[str, worker_pb2.Parameter]:
    return {parameter.name: parameter for parameter in signature.parameters(Pipeline)}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("steps", ["int"]),
        ("prompt", ["str", "list"]),
        ("image", ["image", "tensor", "list"]),
        ("latents", ["tensor"]),
        ("mode", ["str"]),
        ("options", ["dict"]),
        ("unknown", ["any"]),
        ("later", ["any"]),
        ("named", ["float"]),
    ],
)
def test_kinds_come_from_the_annotation(
    parameters: dict[str, worker_pb2.Parameter], name: str, kinds: list[str]
) -> None:
    assert list(parameters[name].kinds) == kinds


def test_default_widens_an_annotation_that_is_too_narrow(
    parameters: dict[str, worker_pb2.Parameter],
) -> None:
    assert list(parameters["guidance_scale"].kinds) == ["int", "float"]


def test_parameter_without_a_default_is_required(
    parameters: dict[str, worker_pb2.Parameter],
) -> None:
    assert parameters["steps"].is_required
    assert not parameters["image"].is_required


def test_text_that_embeddings_can_stand_for_is_not_required(
    parameters: dict[str, worker_pb2.Parameter],
) -> None:
    assert not parameters["prompt"].is_required


def test_none_is_accepted_where_it_is_a_default(
    parameters: dict[str, worker_pb2.Parameter],
) -> None:
    assert parameters["image"].accepts_none
    assert not parameters["steps"].accepts_none


@pytest.mark.parametrize(
    "name", ["self", "generator", "output_type", "callback_on_step_end", "on_chunk", "kwargs"]
)
def test_what_is_not_the_users_business_is_left_out(
    parameters: dict[str, worker_pb2.Parameter], name: str
) -> None:
    assert name not in parameters


def test_union_requires_only_what_the_first_call_needs() -> None:
    own = [worker_pb2.Parameter(name="prompt", kinds=["str"], is_required=True)]
    other = [
        worker_pb2.Parameter(name="prompt", kinds=["list"]),
        worker_pb2.Parameter(name="image", kinds=["image"], is_required=True),
    ]
    merged = {parameter.name: parameter for parameter in signature.union(own, other)}
    assert merged["prompt"].is_required
    assert not merged["image"].is_required
    assert list(merged["prompt"].kinds) == ["str", "list"]


def test_pictures_are_taken_in_every_form_whatever_the_annotation_says() -> None:
    class Narrow:
        def __call__(self, image: torch.FloatTensor | None = None, steps: int = 1) -> None: ...

    image, steps = signature.parameters(Narrow)
    assert list(image.kinds) == ["image", "tensor", "list"]
    assert list(steps.kinds) == ["int"]

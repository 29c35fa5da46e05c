import dataclasses
import random

import numpy
import pytest

from kubediffusion_worker.demo import judge, render, scene

SIDE = 192


def drawn(prompt: str, *, seed: int = 0) -> render.Image:
    layout = scene.place(scene.parse(prompt), random.Random(seed))
    return render.render(layout, height=SIDE, width=SIDE)


def test_drawn_scenes_are_right() -> None:
    rng = random.Random(5)
    for _ in range(60):
        prompt = scene.prompt_of(scene.random_scene(rng))
        assert judge.judge(drawn(prompt, seed=rng.randrange(1000)), prompt).reasons == ()


@pytest.mark.parametrize("side", [96, 128, 256])
def test_drawn_scenes_of_other_sizes_are_right(side: int) -> None:
    prompt = "a red star left of a blue circle on a yellow background"
    layout = scene.place(scene.parse(prompt), random.Random(6))
    assert judge.judge(render.render(layout, height=side, width=side), prompt).is_right


def test_every_wrong_colour_and_shape_is_found() -> None:
    image = drawn("a red star on a yellow background")
    star = scene.Thing(colour=scene.Colour.RED, shape=scene.Shape.STAR)
    wrong = [dataclasses.replace(star, colour=colour) for colour in list(scene.Colour)[1:]]
    wrong += [dataclasses.replace(star, shape=shape) for shape in list(scene.Shape)[:3]]
    for thing in wrong:
        told = scene.Scene(things=(thing,), background=scene.Colour.YELLOW)
        assert not judge.judge(image, scene.prompt_of(told)).is_right


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("a red star left of a blue circle on a green background", "wanted a green background"),
        ("a blue circle left of a red star", "wanted blue, found red"),
        ("a red circle left of a blue star", "wanted a circle, found star"),
        ("a blue star left of a red circle", "wanted blue, found red"),
        ("a red star above a blue circle", "wanted one thing above the other"),
        ("a red star", "wanted 1 pieces, found 2"),
    ],
)
def test_a_picture_of_something_else_is_wrong(prompt: str, reason: str) -> None:
    verdict = judge.judge(drawn("a red star left of a blue circle"), prompt)
    assert any(found.startswith(reason) for found in verdict.reasons), verdict.reasons


def test_a_missing_thing_is_wrong() -> None:
    verdict = judge.judge(drawn("a red star"), "a red star left of a blue circle")
    assert verdict.reasons == ("wanted 2 pieces, found 1",)


def test_noise_is_wrong() -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(numpy.uint8)
    assert not judge.judge(noise, "a red star").is_right


def test_a_blob_is_no_shape() -> None:
    image = drawn("a red square")
    image[96:, 96:] = scene.RGB[scene.Colour.WHITE]
    assert judge.judge(image, "a red square").reasons == ("wanted a square, found no known shape",)


def test_a_thing_of_two_colours_is_wrong() -> None:
    image = drawn("a red square")
    image[:, 96:][(image[:, 96:] == scene.RGB[scene.Colour.RED]).all(-1)] = (38, 90, 214)
    assert "wanted red, found no one colour" in judge.judge(image, "a red square").reasons


def test_specks_are_wrong() -> None:
    image = drawn("a red square")
    image[2:14, 2:60:3] = 0
    assert judge.judge(image, "a red square").reasons != ()


def test_a_prompt_that_says_nothing_is_refused() -> None:
    with pytest.raises(scene.PromptError):
        judge.judge(drawn("a red star"), "a cat")

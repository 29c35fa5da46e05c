import random

import pytest

from kubediffusion_worker.demo import scene


def test_every_random_scene_reads_back_from_its_prompt() -> None:
    rng = random.Random(1)
    for _ in range(500):
        drawn = scene.random_scene(rng)
        assert scene.parse(scene.prompt_of(drawn)) == drawn


def test_prompt_of_two_things_names_relation_and_background() -> None:
    green = scene.Thing(colour=scene.Colour.GREEN, shape=scene.Shape.TRIANGLE)
    orange = scene.Thing(colour=scene.Colour.ORANGE, shape=scene.Shape.SQUARE)
    drawn = scene.Scene(
        things=(green, orange), relation=scene.Relation.LEFT_OF, background=scene.Colour.WHITE
    )
    assert (
        scene.prompt_of(drawn) == "a green triangle left of an orange square on a white background"
    )


def test_case_spacing_and_punctuation_do_not_matter() -> None:
    assert scene.parse("  A Red circle, on THE blue background.") == scene.parse(
        "a red circle on a blue background"
    )


@pytest.mark.parametrize("prompt", ["", "a cat", "a red circle left of", "a circle", "日本"])
def test_other_sentences_are_refused(prompt: str) -> None:
    with pytest.raises(scene.PromptError, match="wanted a prompt like"):
        scene.parse(prompt)


def test_two_things_without_relation_are_refused() -> None:
    thing = scene.Thing(colour=scene.Colour.RED, shape=scene.Shape.STAR)
    with pytest.raises(ValueError, match="wanted 1 thing"):
        scene.Scene(things=(thing, thing))


def test_background_left_out_is_white() -> None:
    assert scene.parse("a red star").visible_background is scene.Colour.WHITE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red star left of a blue circle", "a blue circle right of a red star"),
        ("a red star above a blue circle", "a blue circle below a red star"),
        ("a red star", "a red star on a white background"),
    ],
)
def test_wordings_of_one_picture_are_held_out_together(one: str, other: str) -> None:
    assert scene._picture_key(scene.parse(one)) == scene._picture_key(scene.parse(other))


def test_held_out_prompts_are_different_and_repeatable() -> None:
    prompts = scene.held_out_prompts(200)
    assert len(set(prompts)) == 200
    assert prompts == scene.held_out_prompts(200)


def test_training_never_meets_a_held_out_picture() -> None:
    held_out = {scene._picture_key(scene.parse(one)) for one in scene.held_out_prompts(200)}
    rng = random.Random(2)
    trained = {scene._picture_key(scene.training_scene(rng)) for _ in range(2000)}
    assert not held_out & trained


def test_things_stay_inside_the_picture_and_apart() -> None:
    rng = random.Random(3)
    for _ in range(500):
        layout = scene.place(scene.random_scene(rng), rng)
        for placed in layout.placed:
            assert 0 < placed.x - placed.radius < placed.x + placed.radius < 1
        if len(layout.placed) == 2:
            first, second = layout.placed
            apart = max(abs(first.x - second.x), abs(first.y - second.y))
            assert apart > first.radius + second.radius


def test_first_thing_is_placed_where_the_relation_says() -> None:
    drawn = scene.parse("a red star above a blue circle")
    first, second = scene.place(drawn, random.Random(4)).placed
    assert first.y < second.y

import random

import PIL.Image
import pytest

from kubediffusion.cli.demo import pictures, script
from kubediffusion_worker.demo import render, scene


def drawn(folder, name, prompt, shows):
    path = folder / f"{name}.png"
    layout = scene.place(scene.parse(shows), random.Random(1))
    PIL.Image.fromarray(render.render(layout, height=128, width=128)).save(path)
    return script.Item(request_id=name, prompt=prompt, seed=1, path=str(path))


@pytest.fixture
def sheet(tmp_path):
    return tmp_path / "sheet.png"


def test_pictures_are_checked_and_laid_out(tmp_path, sheet):
    prompt = "a red circle on a blue background"
    right = drawn(tmp_path, "right", prompt, shows=prompt)
    wrong = drawn(tmp_path, "wrong", prompt, shows="a green star")
    assert pictures.review([right, wrong], sheet) == 1
    with PIL.Image.open(sheet) as picture:
        assert picture.width > 2 * 128


def test_prompts_outside_the_vocabulary_are_not_checked(tmp_path, sheet):
    item = drawn(tmp_path, "cat", "a cat with a hat", shows="a red circle")
    assert pictures.review([item], sheet) is None
    assert sheet.exists()

import click
import pytest

from kubediffusion.cli import news
from kubediffusion.cli.demo import prompts, script
from kubediffusion_worker.demo import scene


def test_a_task_survives_its_way_through_a_pipe():
    item = script.Item(request_id="a", prompt='a "red"\ncircle', seed=1, path="/tmp/a.png")
    task = script.Task(engine_id="e", registry="r", state_dir="s", steps=4, items=(item,))
    assert "\n" not in task.dumps()
    assert script.read_task(task.dumps()) == task


def test_a_word_survives_its_way_and_becomes_news():
    word = script.Word(request_id="a", kind="step", moment=1.5, step=2, total=4)
    assert script.read_word(word.dumps()) == word
    assert word.news() == news.News(request_id="a", kind=news.Kind.STEP, step=2, total=4)


def test_without_a_file_there_are_prompts_of_ours():
    assert prompts.read(None) == prompts.DEFAULT
    assert len(set(prompts.DEFAULT)) == 12


@pytest.mark.parametrize("prompt", prompts.DEFAULT)
def test_our_prompts_can_be_checked_and_nothing_has_the_colour_of_its_background(prompt):
    found = scene.parse(prompt)
    assert found.visible_background not in {thing.colour for thing in found.things}


def test_prompts_are_read_one_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n a \n\nb\nc\nd\n")
    assert prompts.read(path) == ("a", "b", "c", "d")


def test_too_few_prompts_are_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("one\n")
    with pytest.raises(click.BadParameter, match="needs 4"):
        prompts.read(path)

import pytest

from kubediffusion.cli.demo import script, takeover

FIRST = script.Task(
    engine_id="e",
    registry="r",
    state_dir="s",
    steps=100,
    items=(script.Item(request_id="picture-01", prompt="p", seed=7, path="out/picture-01.png"),),
)


def word(event, **fields):
    return script.Word(request_id="r", kind="note", moment=1.0, event=event, **fields)


def story(*words):
    told = takeover.Story()
    for each in words:
        told.take(each)
    return told


def test_the_long_picture_is_another_generation_of_the_same_seed():
    task = takeover.task_of(FIRST, FIRST.items[0], 200)
    (item,), (again,) = task.items, takeover.again(task).items
    assert (task.steps, task.engine_id) == (200, "e")
    assert (item.seed, item.prompt) == (again.seed, again.prompt) == (7, "p")
    assert (item.path, again.path) == ("out/long-picture.png", "out/long-picture-again.png")
    assert item.request_id != again.request_id


@pytest.mark.parametrize(
    ("words", "is_moment"),
    [
        ([], False),
        ([word("progress", step=100, total=200)], False),
        ([word("checkpointed", step=80), word("progress", step=99, total=200)], False),
        ([word("checkpointed", step=80), word("progress", step=100, total=200)], True),
        ([word("progress", step=100, total=200), word("checkpointed", step=100)], False),
        ([word("progress", step=150, total=200)], True),
    ],
    ids=["nothing", "nothing safe", "not half", "half", "all safe", "no checkpoint in time"],
)
def test_the_moment_to_kill_is_when_half_is_done_and_some_is_safe(words, is_moment):
    assert story(*words).is_moment_to_kill() is is_moment


def test_the_story_knows_where_it_goes_on():
    told = story(
        word("started", worker="worker-1"),
        word("progress", step=5, total=8),
        word("moved", worker="worker-1"),
        word("started", worker="worker-2"),
        word("resumed", step=3, worker="worker-2", exactness="exact"),
    )
    assert (told.worker, told.resumed_from, told.exactness) == ("worker-2", 3, "exact")
    assert told.resumed_at == 1.0

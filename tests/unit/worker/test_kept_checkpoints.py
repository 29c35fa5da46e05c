from kubediffusion_worker import checkpoints, identity
from machines import checkpoint

A, B, C = (identity.GenerationKey("e", name) for name in "abc")


def a_shelf(max_bytes: int = 100) -> checkpoints.CheckpointShelf:
    return checkpoints.CheckpointShelf(checkpoints.CheckpointLimits(max_bytes=max_bytes))


def steps(shelf: checkpoints.CheckpointShelf, key: identity.GenerationKey) -> list[int]:
    return [info.step for info in shelf.of(key)]


def test_the_newest_two_of_a_generation_are_kept() -> None:
    shelf = a_shelf()
    assert shelf.put(A, checkpoint(1)) == []
    assert shelf.put(A, checkpoint(2)) == []
    assert shelf.put(A, checkpoint(3)) == [checkpoints.Place(A, 1)]
    assert steps(shelf, A) == [2, 3]
    assert shelf.bytes == 20


def test_the_same_step_again_replaces_what_was_there() -> None:
    shelf = a_shelf()
    shelf.put(A, checkpoint(1, size=30))
    shelf.put(A, checkpoint(2))
    assert shelf.put(A, checkpoint(1, size=5)) == []
    assert steps(shelf, A) == [2, 1]
    assert shelf.bytes == 15


def test_second_newest_ones_give_way_first() -> None:
    shelf = a_shelf(40)
    for key in (A, B):
        shelf.put(key, checkpoint(1))
        shelf.put(key, checkpoint(2))
    assert shelf.put(C, checkpoint(1)) == [checkpoints.Place(A, 1)]
    assert shelf.put(C, checkpoint(2, size=20)) == [
        checkpoints.Place(C, 1),
        checkpoints.Place(B, 1),
    ]
    assert shelf.bytes == 40


def test_what_can_be_taken_again_gives_way_next_but_never_what_somebody_depends_on() -> None:
    shelf = a_shelf(20)
    shelf.put(A, checkpoint(1))
    shelf.put(B, checkpoint(1))
    shelf.protect(A)
    assert shelf.put(C, checkpoint(1)) == [checkpoints.Place(B, 1)]
    shelf.protect(C)
    assert shelf.put(B, checkpoint(2)) is None
    shelf.relax(C)
    assert shelf.put(B, checkpoint(2)) == [checkpoints.Place(C, 1)]


def test_what_is_larger_than_everything_changes_nothing() -> None:
    shelf = a_shelf(20)
    shelf.put(A, checkpoint(1))
    assert shelf.put(A, checkpoint(2, size=21)) is None
    assert steps(shelf, A) == [1]
    assert shelf.bytes == 10


def test_what_is_dropped_is_told() -> None:
    shelf = a_shelf()
    for step in (1, 2):
        shelf.put(A, checkpoint(step))
    assert shelf.keep_newest(A) == [checkpoints.Place(A, 1)]
    assert shelf.drop(A) == [checkpoints.Place(A, 2)]
    assert (len(shelf), shelf.bytes, shelf.newest(A)) == (0, 0, None)

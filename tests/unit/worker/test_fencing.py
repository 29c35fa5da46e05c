import pytest

from kubediffusion_wire import errors
from kubediffusion_worker import fencing, identity
from machines import caller


def fences(**limits: float) -> fencing.Fences:
    return fencing.Fences(fencing.FenceLimits(**limits))  # type: ignore[arg-type] # floats


def test_the_highest_epoch_owns_the_engine_id() -> None:
    made = fences()
    made.claim(caller(epoch=2), 0.0)
    with pytest.raises(errors.StaleEpochError, match="replaced by epoch 2"):
        made.claim(caller(epoch=1), 1.0)
    assert made.epoch_of("e") == identity.Epoch(2, "i")


def test_equal_epochs_are_told_apart_by_their_instance() -> None:
    made = fences()
    made.claim(caller(epoch=2, instance="b"), 0.0)
    made.claim(caller(epoch=2, instance="b"), 0.0)
    with pytest.raises(errors.StaleEpochError):
        made.claim(caller(epoch=2, instance="a"), 1.0)


def test_other_engines_are_not_concerned() -> None:
    made = fences()
    made.claim(caller("one", epoch=9), 0.0)
    made.claim(caller("two", epoch=1), 0.0)


def test_watches_of_older_epochs_have_to_end() -> None:
    made = fences()
    made.claim(caller(epoch=1), 0.0)
    made.open_watch(7, caller(epoch=1))
    assert made.claim(caller(epoch=2), 1.0) == [(7, identity.Epoch(1, "i"))]
    assert made.claim(caller(epoch=2), 1.0) == []


def test_an_open_watch_is_a_lease_that_outlasts_it_for_a_while() -> None:
    made = fences(lease_seconds=60.0)
    made.claim(caller(), 0.0)
    assert not made.holds_lease("e", 0.0)
    made.open_watch(1, caller())
    assert made.holds_lease("e", 1e9)
    made.close_watch(1, "e", 100.0)
    assert made.holds_lease("e", 159.0)
    assert not made.holds_lease("e", 160.0)
    assert made.unleased_since("e", 170.0) == 160.0


def test_the_lease_lasts_while_any_watch_is_open() -> None:
    made = fences(lease_seconds=1.0)
    made.claim(caller(), 0.0)
    made.open_watch(1, caller())
    made.open_watch(2, caller())
    made.close_watch(1, "e", 0.0)
    made.close_watch(1, "e", 0.0)
    assert made.holds_lease("e", 1e9)


def test_silent_engines_are_forgotten_beyond_the_bound() -> None:
    made = fences(max_engines=2, lease_seconds=1.0)
    for name in ("kept", "old", "new"):
        made.claim(caller(name, epoch=5), 0.0)
    made.forget(10.0, lambda engine_id: engine_id == "kept")
    assert len(made) == 2
    assert made.epoch_of("old").number == 0
    assert made.epoch_of("kept").number == made.epoch_of("new").number == 5


@pytest.mark.parametrize(("role", "allowed"), [("OBSERVER", False), ("OPERATOR", True)])
def test_roles_may_write_as_far_as_they_are_meant_to(role: str, allowed: bool) -> None:
    who = caller(role=role)
    with pytest.raises(errors.MethodNotAllowedError):
        fencing.check_writer(who, operators_allowed=False)
    if allowed:
        fencing.check_writer(who, operators_allowed=True)
    else:
        with pytest.raises(errors.MethodNotAllowedError):
            fencing.check_writer(who, operators_allowed=True)

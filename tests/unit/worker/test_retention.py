from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import identity, retention

Key = identity.GenerationKey


def a_shelf(**limits: int | float) -> retention.Shelf:
    return retention.Shelf(retention.RetentionLimits(**limits))  # type: ignore[arg-type] # mixed


def nobody(engine_id: str) -> bool:
    return False


def everybody(engine_id: str) -> bool:
    return True


def a_stone(released_at: float = 0.0) -> retention.Tombstone:
    return retention.Tombstone(
        is_evicted=False,
        attempt=1,
        digest="",
        last_event=worker_pb2.GenerationEvent(),
        released_at=released_at,
    )


def test_the_oldest_results_leave_when_there_are_too_many_bytes() -> None:
    shelf = a_shelf(max_bytes=10)
    for name in ("a", "b", "c"):
        shelf.put(Key("e", name), 4, 0.0)
    assert shelf.victims(0.0, nobody) == [Key("e", "a")]


def test_the_oldest_results_leave_when_there_are_too_many_items() -> None:
    shelf = a_shelf(max_items=2)
    for name in ("a", "b", "c"):
        shelf.put(Key("e", name), 0, 0.0)
    assert shelf.victims(0.0, nobody) == [Key("e", "a")]


def test_old_results_leave() -> None:
    shelf = a_shelf(max_age=100.0)
    shelf.put(Key("e", "old"), 1, 0.0)
    shelf.put(Key("e", "new"), 1, 50.0)
    assert shelf.victims(101.0, nobody) == [Key("e", "old")]


def test_results_of_an_engine_with_a_lease_stay_whatever_happens() -> None:
    shelf = a_shelf(max_bytes=1, max_items=1, max_age=1.0)
    for name in ("a", "b"):
        shelf.put(Key("e", name), 4, 0.0)
    assert shelf.victims(1e9, everybody) == []


def test_one_engine_over_its_own_bound_loses_its_own_results() -> None:
    shelf = a_shelf(max_bytes_per_engine=5)
    shelf.put(Key("other", "x"), 4, 0.0)
    shelf.put(Key("e", "a"), 4, 0.0)
    shelf.put(Key("e", "b"), 4, 0.0)
    assert shelf.victims(0.0, nobody) == [Key("e", "a")]


def test_new_work_is_refused_only_when_nothing_may_be_evicted() -> None:
    shelf = a_shelf(max_bytes=4)
    assert shelf.refusal("e", everybody) is None
    shelf.put(Key("e", "a"), 4, 0.0)
    assert "4 bytes wait" in str(shelf.refusal("e", everybody))
    assert shelf.refusal("e", nobody) is None


def test_an_engine_over_its_own_bound_is_refused_and_no_other() -> None:
    shelf = a_shelf(max_bytes_per_engine=4)
    shelf.put(Key("e", "a"), 4, 0.0)
    assert "engine 'e'" in str(shelf.refusal("e", everybody))
    assert shelf.refusal("other", everybody) is None


def test_bytes_are_counted_by_engine() -> None:
    shelf = a_shelf()
    shelf.put(Key("a", "1"), 3, 0.0)
    shelf.put(Key("b", "1"), 4, 0.0)
    assert (shelf.bytes, shelf.bytes_of("a"), shelf.bytes_of("b")) == (7, 3, 4)
    shelf.remove(Key("a", "1"))
    assert (shelf.bytes, shelf.bytes_of("a"), shelf.holds_any_of("a")) == (4, 0, False)


def test_tombstones_are_bounded_by_count() -> None:
    stones = retention.Tombstones(retention.RetentionLimits(max_tombstones=2))
    for name in ("a", "b", "c"):
        stones.put(Key("e", name), a_stone())
    assert list(stones) == [Key("e", "b"), Key("e", "c")]


def test_tombstones_are_bounded_by_age() -> None:
    stones = retention.Tombstones(retention.RetentionLimits(max_tombstone_age=10.0))
    stones.put(Key("e", "a"), a_stone(0.0))
    stones.put(Key("e", "b"), a_stone(5.0))
    stones.expire(11.0)
    assert list(stones) == [Key("e", "b")]

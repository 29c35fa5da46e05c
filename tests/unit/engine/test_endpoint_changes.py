import hypothesis
from hypothesis import strategies

from kubediffusion._discovery import changes, protocol


def endpoint(name: str, address: str = "h:1", **more: object) -> protocol.Endpoint:
    return protocol.Endpoint(name=name, address=address, **more)  # type: ignore[arg-type]


def compare(known: list[protocol.Endpoint], found: list[protocol.Endpoint]) -> changes.Changes:
    return changes.compare(changes.by_name(known), found)


def test_the_same_set_is_no_change() -> None:
    assert not compare([endpoint("a"), endpoint("b")], [endpoint("b"), endpoint("a")])


def test_a_new_name_is_opened() -> None:
    assert compare([endpoint("a")], [endpoint("a"), endpoint("b")]).opened == (endpoint("b"),)


def test_a_name_that_is_listed_no_more_has_left() -> None:
    assert compare([endpoint("a")], []).left == (endpoint("a"),)


def test_a_name_whose_life_is_known_to_be_over_has_ended() -> None:
    old = endpoint("a", incarnation="1")
    dead = endpoint("a", incarnation="1", is_dead=True)
    assert compare([old], [dead]) == changes.Changes(ended=(old,))


def test_a_former_life_that_is_over_says_nothing_of_the_present_one() -> None:
    old, former = endpoint("a", incarnation="2"), endpoint("a", incarnation="1", is_dead=True)
    assert compare([old], [old, former]) == changes.Changes()
    assert compare([old], [former]).left == (old,)


def test_the_dead_are_not_opened() -> None:
    assert not compare([], [endpoint("a", is_dead=True)])


def test_another_life_at_another_address_replaces_the_old_one() -> None:
    old, new = endpoint("a", "h:1", incarnation="1"), endpoint("a", "h:2", incarnation="2")
    assert compare([old], [new]) == changes.Changes(opened=(new,), replaced=(old,))


def test_the_same_life_at_another_address_has_moved() -> None:
    old, new = endpoint("a", "h:1", incarnation="1"), endpoint("a", "h:2", incarnation="1")
    assert compare([old], [new]) == changes.Changes(opened=(new,), moved=(old,))


def test_an_unknown_life_at_another_address_has_moved() -> None:
    old, new = endpoint("a", "h:1"), endpoint("a", "h:2", incarnation="2")
    assert compare([old], [new]).moved == (old,)


def test_another_life_at_the_same_address_is_an_update() -> None:
    old, new = endpoint("a", incarnation="1"), endpoint("a", incarnation="2")
    assert compare([old], [new]) == changes.Changes(updated=(new,))


def test_of_two_endpoints_with_one_name_the_ready_one_counts() -> None:
    unready, ready = endpoint("a", "h:1", is_ready=False), endpoint("a", "h:2")
    assert changes.by_name([unready, ready]) == {"a": ready}
    assert changes.by_name([ready, unready]) == {"a": ready}


ENDPOINTS = strategies.builds(
    endpoint,
    strategies.sampled_from("abc"),
    strategies.sampled_from(["h:1", "h:2"]),
    incarnation=strategies.sampled_from(["", "1", "2"]),
    is_ready=strategies.booleans(),
)


@hypothesis.given(known=strategies.lists(ENDPOINTS), found=strategies.lists(ENDPOINTS))
def test_following_the_changes_leads_to_what_was_found(
    known: list[protocol.Endpoint], found: list[protocol.Endpoint]
) -> None:
    news = compare(known, found)
    links = {name: each.address for name, each in changes.by_name(known).items()}
    for old in (*news.left, *news.replaced, *news.moved):
        assert links.pop(old.name) == old.address
    for new in news.opened:
        assert links.setdefault(new.name, new.address) == new.address
    assert links == {name: each.address for name, each in changes.by_name(found).items()}

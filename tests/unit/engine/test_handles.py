import pytest

from kubediffusion._discovery import registry, static
from kubediffusion.executors import handles
from kubediffusion_wire import errors


class Actor:
    def generate(self, requests: object) -> None:
        """Runs them."""


def classify(given: object, has_forward_hook: bool = False) -> handles.Handles:
    return handles.classify(given, has_forward_hook=has_forward_hook)


@pytest.mark.parametrize("given", ["h:1", ["h:1"], ("h:1", "unix:/s")])
def test_addresses_are_a_static_source(given: object) -> None:
    assert isinstance(classify(given).source, static.StaticDiscovery)
    assert isinstance(classify(given, True).source, static.StaticDiscovery)


def test_a_discovery_is_a_source(tmp_path: object) -> None:
    source = registry.RegistryDiscovery(tmp_path)  # type: ignore[arg-type]  # a path
    assert classify(source).source is source


def test_objects_with_the_methods_are_actors() -> None:
    actor = Actor()
    assert classify([actor]).actors == (actor,)


def test_with_a_forward_hook_handles_may_be_anything() -> None:
    actor, thing = Actor(), object()
    assert classify([actor, thing], True).others == (actor, thing)


@pytest.mark.parametrize("given", [None, [], ()])
def test_nothing_is_no_handle(given: object) -> None:
    assert classify(given) == classify(given, True) == handles.Handles()


@pytest.mark.parametrize("given", [[object()], ["h:1", Actor()], 7, {"h:1"}, {"a": 1}])
def test_other_things_are_refused(given: object) -> None:
    with pytest.raises(TypeError, match="worker_handles"):
        classify(given)


def test_a_text_that_is_no_address_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError, match="workers"):
        classify(["no address"])


@pytest.mark.parametrize(
    ("ranks", "order"),
    [
        ([2, 0, 1], "bca"),
        ([0, 1, 2], "abc"),
        ([0, 0, 1], "abc"),
        ([None, 1, 0], "abc"),
        ([False, True, 2], "abc"),
        ([1, 2, 3], "abc"),
        ([ValueError(), 1, 2], "abc"),
    ],
)
def test_ranks_order_only_where_they_are_complete(ranks: list[object], order: str) -> None:
    assert "".join(handles.in_rank_order("abc", ranks)) == order

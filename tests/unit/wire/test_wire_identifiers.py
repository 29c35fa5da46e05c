import hypothesis
import pytest
from hypothesis import strategies

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers


@pytest.mark.parametrize("text", ["a", "7", "Az09._:-", "-", ".", "x" * 128])
def test_a_good_id_passes(text: str) -> None:
    identifiers.check_request_id(text)
    identifiers.check_engine_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "a/b", "a b", "a\n", "é", "x" * 129, "../x", "a\0b", "٣", "x" * 1_000_000],
)
def test_a_bad_id_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        identifiers.check_request_id(text)
    assert [violation.field for violation in caught.value.violations] == ["request_id"]
    assert len(caught.value.message) < 1000


def test_a_bad_engine_id_is_named_so() -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"^engine_id must be .* found 'a/b'$"):
        identifiers.check_engine_id("a/b")


@hypothesis.given(strategies.text(), strategies.text())
def test_a_derived_seed_fits_into_63_bits(engine_id: str, request_id: str) -> None:
    hypothesis.assume(not any("\ud800" <= c <= "\udfff" for c in engine_id + request_id))
    assert 0 <= identifiers.derive_seed(engine_id, request_id) < 2**63


def test_a_derived_seed_never_changes() -> None:
    # Resubmitting to a worker of another version must draw the same noise.
    assert identifiers.derive_seed("engine", "request") == 298515675299682278


def test_ids_do_not_run_into_each_other_in_a_seed() -> None:
    assert identifiers.derive_seed("ab", "c") != identifiers.derive_seed("a", "bc")


def test_a_digest_does_not_depend_on_the_order_of_arguments() -> None:
    one, other = worker_pb2.GenerationSpec(), worker_pb2.GenerationSpec()
    names = [f"name_{index}" for index in range(50)]
    for name in names:
        one.extra_args[name].integer = len(name)
    for name in reversed(names):
        other.extra_args[name].integer = len(name)
    assert identifiers.spec_digest(one) == identifiers.spec_digest(other)


def test_a_digest_tells_an_absent_field_from_a_zero() -> None:
    absent = worker_pb2.GenerationSpec(prompt="p")
    zero = worker_pb2.GenerationSpec(prompt="p", guidance_scale=0.0)
    assert identifiers.spec_digest(absent) != identifiers.spec_digest(zero)


def test_a_digest_never_changes() -> None:
    spec = worker_pb2.GenerationSpec(prompt="a red circle", seed=7, height=64, width=64)
    assert identifiers.spec_digest(spec) == (
        "28e0bc988ddb8b7e8132e5688643436fdd7810e82a42dbd4939ea878c3045a33"
    )


def test_new_ids_are_good_and_differ() -> None:
    first, second = identifiers.new_request_id(), identifiers.new_request_id()
    identifiers.check_request_id(first)
    assert first != second
    assert identifiers.new_incarnation() != identifiers.new_incarnation()

"""Which calls of a recorded pipeline need not be made again."""

import pytest

from kubediffusion_wire import errors
from kubediffusion_worker import tapes


def call(name: str, *, style: str = "", method: str = "forward", **flags: bool) -> tapes.Called:
    return tapes.Called(
        name=name,
        method=method,
        style=style,
        is_encoder=flags.get("is_encoder", False),
        is_opaque=flags.get("is_opaque", False),
        output=0,
    )


def step(*, is_first: bool = False, stream: int = 0) -> tapes.Stepped:
    return tapes.Stepped(stream=stream, is_first=is_first, output=0)


SET = tapes.TimestepsSet(stream=0)
TEXT = call("text_encoder", is_encoder=True)
UNET = call("unet")
NEXT = tapes.Approach(name="unet", style="")


def test_denoiser_is_skipped_and_the_text_encoder_is_not() -> None:
    tape = [TEXT, SET, UNET, step(is_first=True), UNET, step(), UNET, step()]
    assert tapes.skippable(tape, NEXT) == {2, 4, 6}


def test_only_iteration_is_skipped_where_the_next_call_is_of_the_same_kind() -> None:
    tape = [TEXT, SET, UNET, step(is_first=True)]
    assert tapes.skippable(tape, NEXT) == {2}
    assert not tapes.skippable(tape, tapes.Approach(name="text_encoder", style=""))


def test_call_that_fills_a_cache_differs_from_the_others_and_is_made() -> None:
    tape = [SET, call("unet", style="extract"), step(is_first=True), UNET, step()]
    assert tapes.skippable(tape, NEXT) == {3}


def test_opaque_outputs_and_other_methods_are_computed() -> None:
    opaque, decode = call("unet", is_opaque=True), call("vae", method="decode")
    tape = [SET, opaque, step(is_first=True), opaque, decode, step()]
    assert not tapes.skippable(tape, NEXT)


def test_context_that_is_computed_between_two_loops_is_computed_again() -> None:
    cache = call("unet")
    tape = [SET, UNET, step(is_first=True), UNET, step(), cache, SET, UNET, step(is_first=True)]
    tape += [UNET, step()]
    assert tapes.skippable(tape, NEXT) == {1, 3, 7, 9}


def test_encoder_within_a_loop_is_computed_until_it_is_in_each_iteration() -> None:
    loop = [TEXT, UNET, step()]
    head: list[tapes.Event] = [SET, UNET, step(is_first=True)]
    assert tapes.skippable([*head, *loop, *loop], NEXT) == {1, 4, 7}
    assert 3 in tapes.skippable([*head, *loop, *loop, *loop], NEXT)


def test_scheduler_that_joins_a_loop_begins_no_other_one() -> None:
    tape = [SET, UNET, step(is_first=True), UNET, step(), step(is_first=True, stream=1)]
    assert tapes.skippable(tape, NEXT) == {1, 3}


@pytest.mark.parametrize("event", [SET, TEXT, step(is_first=True)])
def test_events_survive_as_json(event: tapes.Event) -> None:
    assert tapes.from_json(tapes.to_json(event)) == event


@pytest.mark.parametrize(
    "value", [None, [], {}, {"kind": "step"}, {"kind": "set", "stream": "0"}, {"kind": "run"}]
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(errors.InvalidCheckpointError):
        tapes.from_json(value)

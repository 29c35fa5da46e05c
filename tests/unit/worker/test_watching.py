import asyncio
from collections.abc import Iterator

import pytest
from google.protobuf import duration_pb2

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import identity, instructions, stimuli, watching
from machines import Machine, a_machine, caller, config


def asked(*request_ids: str, **fields: object) -> watching.Wanted:
    given: dict[str, object] = {
        "engine_id": "e",
        "request_ids": frozenset(request_ids),
        "after": {},
        "min_interval": 0.0,
        **fields,
    }
    return watching.Wanted(**given)  # type: ignore[arg-type] # by name


def a_watch(machine: Machine, wanted: watching.Wanted | None = None) -> watching.Watch:
    return watching.Watch(1, wanted or asked(), machine.core, "incarnation")


def read(watch: watching.Watch, now: float) -> Iterator[worker_pb2.WatchGenerationsResponse]:
    while (response := watch.next(now)) is not None:
        yield response


def told(watch: watching.Watch, now: float) -> list[tuple[str, str | None]]:
    return [
        (event.request_id, event.WhichOneof("event"))
        for response in read(watch, now)
        for event in response.events
    ]


def notify(watch: watching.Watch, machine: Machine, already: int = 0) -> int:
    """Tell a watch what the machine has said since; return how much that is now."""
    for item in machine.said[already:]:
        if isinstance(item, instructions.Emit):
            watch.notify(item.key)
        elif isinstance(item, instructions.Free):
            watch.forget(item.key)
    return len(machine.said)


def test_the_first_message_tells_of_the_worker_at_once() -> None:
    machine = a_machine()
    first = a_watch(machine).next(machine.now)
    assert first is not None
    assert first.incarnation == "incarnation"
    assert first.state == worker_pb2.WORKER_STATE_SERVING
    assert first.load.slots == 1
    assert not first.events


def test_the_past_comes_before_the_mark_and_everything_after_it_is_live() -> None:
    machine = a_machine()
    machine.submit("a")
    watch = a_watch(machine)
    before = list(read(watch, machine.now))
    assert [response.is_live for response in before] == [False, True]
    assert [event.request_id for event in before[1].events] == ["a"]
    said = len(machine.said)
    machine.submit("b")
    notify(watch, machine, said)
    assert all(response.is_live for response in read(watch, machine.now))


def test_a_watch_without_a_past_is_live_right_after_the_first_message() -> None:
    machine = a_machine()
    watch = a_watch(machine)
    assert [response.is_live for response in read(watch, machine.now)] == [False, True]


def test_new_generations_are_told_too() -> None:
    machine = a_machine()
    watch = a_watch(machine)
    assert told(watch, machine.now) == []
    machine.submit("a")
    notify(watch, machine)
    assert told(watch, machine.now) == [("a", "queued")]


def test_generations_of_others_are_not_told() -> None:
    machine = a_machine()
    machine.submit("x", by=caller("other"))
    watch = a_watch(machine)
    assert told(watch, machine.now) == []
    machine.submit("y", by=caller("other"))
    notify(watch, machine)
    assert told(watch, machine.now) == []


def test_only_named_generations_are_told_where_there_are_names() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.submit("b")
    watch = a_watch(machine, asked("b"))
    assert told(watch, machine.now) == [("b", "queued")]


def test_a_name_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(errors.GenerationNotFoundError):
        a_watch(a_machine(), asked("a"))


def test_a_client_gets_what_is_newer_than_it_has() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a")
    watch = a_watch(machine, asked(after={"a": 2}))
    assert told(watch, machine.now) == [("a", "succeeded")]


def test_a_number_of_another_incarnation_means_nothing() -> None:
    machine = a_machine()
    machine.submit("a")
    watch = a_watch(machine, asked(after={"a": 99}))
    assert told(watch, machine.now) == [("a", "queued")]


def test_progress_is_limited_and_told_as_soon_as_it_may_be() -> None:
    machine = a_machine()
    machine.submit("a")
    run = machine.started("a")
    watch = a_watch(machine, asked(min_interval=10.0))
    said = notify(watch, machine)
    machine.step(run, 1)
    said = notify(watch, machine, said)
    assert told(watch, machine.now)[-1] == ("a", "progress")
    machine.step(run, 2)
    machine.step(run, 3)
    notify(watch, machine, said)
    assert told(watch, machine.now) == []
    assert watch.due() == pytest.approx(machine.now + 8.0)
    (late,) = [r for r in read(watch, machine.now + 8.0) if r.events]
    assert (late.events[0].progress.step, late.events[0].coalesced) == (3, 1)


def test_a_generation_that_was_released_too_soon_still_tells_its_end() -> None:
    machine = a_machine()
    machine.submit("a")
    watch = a_watch(machine)
    assert told(watch, machine.now) == [("a", "queued")]
    said = len(machine.said)
    machine.run_to_end("a")
    machine.acknowledge("a")
    notify(watch, machine, said)
    assert told(watch, machine.now) == [("a", "gap"), ("a", "succeeded")]
    assert watch.is_caught_up


def test_a_released_generation_can_be_watched_by_its_name() -> None:
    machine = a_machine()
    machine.submit("a")
    machine.run_to_end("a")
    machine.acknowledge("a")
    assert told(a_watch(machine, asked("a")), machine.now) == [("a", "gap"), ("a", "succeeded")]
    assert told(a_watch(machine, asked("a", after={"a": 3})), machine.now) == []
    assert told(a_watch(machine), machine.now) == []


def test_a_long_past_is_told_in_several_messages() -> None:
    machine = a_machine(config(max_events=300))
    for name in "abcd":
        machine.submit(name)
    run = machine.started("a")
    for step in range(1, 290):
        machine.step(run, step, total=300)
    responses = list(read(a_watch(machine), machine.now))
    assert [len(response.events) for response in responses] == [0, 291, 3]
    assert [response.is_live for response in responses] == [False, False, True]


def test_the_load_is_told_again_when_it_has_changed_but_not_all_the_time() -> None:
    machine = a_machine()
    watch = a_watch(machine)
    list(read(watch, machine.now))
    machine.submit("a", by=caller("other"))
    watch.notify_load(is_urgent=False)
    assert list(read(watch, machine.now)) == []
    due = watch.due()
    assert due == pytest.approx(machine.now + watching.LOAD_SECONDS)
    (response,) = read(watch, due)
    assert response.load.running == 1


def test_a_change_of_the_worker_is_told_at_once() -> None:
    machine = a_machine()
    machine.submit("a")
    watch = a_watch(machine)
    list(read(watch, machine.now))
    machine.drain(10.0)
    watch.notify_load(is_urgent=True)
    states = [response.state for response in read(watch, machine.now)]
    assert worker_pb2.WORKER_STATE_DRAINING in states


def test_positions_of_released_generations_are_forgotten() -> None:
    machine = a_machine()
    watch = a_watch(machine)
    said = 0
    for number in range(50):
        machine.submit(f"r{number}")
        machine.run_to_end(f"r{number}")
        said = notify(watch, machine, said)
        list(read(watch, machine.now))
        machine.acknowledge(f"r{number}")
        said = notify(watch, machine, said)
        list(read(watch, machine.now))
    assert watch.is_caught_up
    assert len(watch._readers) == 0  # pyright: ignore[reportPrivateUsage] # memory is the point


def test_a_watch_until_the_end_ends() -> None:
    async def story() -> list[str | None]:
        machine = a_machine()
        machine.submit("a")
        machine.run_to_end("a")
        watch = a_watch(machine, asked("a", until_terminal=True))
        return [
            event.WhichOneof("event")
            async for response in watch.responses(lambda: machine.now)
            for event in response.events
        ]

    assert asyncio.run(story()) == ["queued", "started", "succeeded"]


def test_an_ended_watch_tells_what_is_left_and_then_why() -> None:
    async def story() -> list[str]:
        machine = a_machine()
        machine.submit("a")
        watch = a_watch(machine)
        watch.end(errors.StaleEpochError("replaced"))
        seen: list[str] = []
        try:
            async for response in watch.responses(lambda: machine.now):
                seen += [event.request_id for event in response.events]
        except errors.StaleEpochError as error:
            seen.append(error.message)
        return seen

    assert asyncio.run(story()) == ["a", "replaced"]


def test_a_watch_wakes_up_for_held_back_progress() -> None:
    async def story() -> int:
        loop = asyncio.get_running_loop()
        machine = a_machine()
        machine.submit("a")
        run = machine.started("a")
        machine.step(run, 1)
        watch = a_watch(machine, asked(min_interval=0.02))
        machine.now = loop.time()
        seen = 0
        async for response in watch.responses(loop.time):
            seen += sum(event.HasField("progress") for event in response.events)
            if seen == 2:
                return seen
            if seen == 1:
                machine.handle(
                    stimuli.Stepped(
                        now=loop.time(), run=run, step=2, total=4, timestep=0.0, seconds=0.1
                    )
                )
                watch.notify(identity.GenerationKey("e", "a"))
        return seen

    assert asyncio.run(story()) == 2


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (
            worker_pb2.WatchGenerationsRequest(
                caller=worker_pb2.Caller(engine_id="e"), request_ids=["a/b"]
            ),
            "request_ids",
        ),
        (
            worker_pb2.WatchGenerationsRequest(
                caller=worker_pb2.Caller(engine_id="e"),
                min_interval=duration_pb2.Duration(seconds=-1),
            ),
            "min_interval",
        ),
    ],
)
def test_a_request_without_meaning_is_refused(
    request_: worker_pb2.WatchGenerationsRequest, field: str
) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        watching.wanted(request_)
    assert caught.value.violations[0].field == field


def test_the_interval_is_100_ms_unless_given() -> None:
    request = worker_pb2.WatchGenerationsRequest(caller=worker_pb2.Caller(engine_id="e"))
    assert watching.wanted(request).min_interval == 0.1
    request.min_interval.FromMilliseconds(0)
    assert watching.wanted(request).min_interval == 0.0

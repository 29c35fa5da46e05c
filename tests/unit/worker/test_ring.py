import math

import hypothesis
from hypothesis import strategies

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import ring


def progress(step: int = 1) -> worker_pb2.GenerationEvent:
    return worker_pb2.GenerationEvent(progress=worker_pb2.Progress(step=step))


def preview(size: int = 0) -> worker_pb2.GenerationEvent:
    return worker_pb2.GenerationEvent(preview=worker_pb2.PreviewEvent(image=b"x" * size))


def started() -> worker_pb2.GenerationEvent:
    return worker_pb2.GenerationEvent(started=worker_pb2.StartedEvent())


def succeeded() -> worker_pb2.GenerationEvent:
    return worker_pb2.GenerationEvent(succeeded=worker_pb2.SucceededEvent())


def a_ring(*events: worker_pb2.GenerationEvent, **limits: int) -> ring.EventRing:
    made = ring.EventRing(ring.RingLimits(**limits))
    for event in events:
        made.append(event)
    return made


def shown(pull: ring.Pull) -> list[tuple[str | None, int, int]]:
    return [(event.WhichOneof("event"), event.sequence, event.coalesced) for event in pull.events]


def test_events_are_numbered_from_one() -> None:
    assert [event.sequence for event in a_ring(started(), progress()).after(0)] == [1, 2]


def test_a_reader_gets_what_is_newer_than_it_has() -> None:
    events = a_ring(started(), progress(), succeeded())
    assert [event.sequence for event in events.after(1)] == [2, 3]
    assert events.after(3) == []


def test_the_oldest_events_leave_when_there_are_too_many() -> None:
    events = a_ring(*map(progress, range(10)), max_events=4)
    assert (events.first_sequence, events.last_sequence) == (7, 10)


def test_the_oldest_events_leave_when_they_are_too_large() -> None:
    events = a_ring(*(preview(400) for _ in range(5)), max_bytes=1000)
    assert (events.first_sequence, events.last_sequence) == (4, 5)


def test_the_newest_event_stays_however_large_it_is() -> None:
    assert len(a_ring(preview(4000), max_bytes=1000).after(0)) == 1


def test_a_reader_who_was_away_too_long_gets_a_gap_first() -> None:
    events = a_ring(*map(progress, range(10)), max_events=4)
    pull = ring.pull(events, ring.Reader(sequence=2, min_interval=0.0), now=0.0)
    assert shown(pull)[:2] == [("gap", 6, 0), ("progress", 7, 0)]
    assert pull.events[0].gap.first_available_sequence == 7


def test_progress_is_replaced_by_newer_progress_and_counted() -> None:
    events = a_ring(started(), progress(), progress(), progress())
    pull = ring.pull(events, ring.Reader(), now=0.0)
    assert shown(pull) == [("started", 1, 0), ("progress", 4, 2)]


def test_progress_within_the_interval_is_held_back_until_it_is_over() -> None:
    events = a_ring(progress())
    reader = ring.pull(events, ring.Reader(), now=5.0).reader
    events.append(progress())
    early = ring.pull(events, reader, now=5.05)
    assert (shown(early), early.due) == ([], 5.1)
    late = ring.pull(events, early.reader, now=5.1)
    assert (shown(late), late.due) == ([("progress", 2, 0)], None)


def test_a_state_change_is_never_held_back() -> None:
    events = a_ring(progress())
    reader = ring.pull(events, ring.Reader(), now=5.0).reader
    events.append(progress())
    events.append(succeeded())
    pull = ring.pull(events, reader, now=5.01)
    assert (shown(pull), pull.due) == ([("succeeded", 3, 1)], None)


def test_a_reader_without_an_interval_gets_every_event() -> None:
    events = a_ring(started(), *map(progress, range(5)), succeeded())
    pull = ring.pull(events, ring.Reader(min_interval=0.0), now=0.0)
    assert [event.sequence for event in pull.events] == [1, 2, 3, 4, 5, 6, 7]


def test_previews_are_given_only_to_those_who_want_them() -> None:
    events = a_ring(preview(), progress())
    without = ring.pull(events, ring.Reader(), now=0.0)
    assert shown(without) == [("progress", 2, 1)]
    wanted = ring.pull(events, ring.Reader(wants_previews=True), now=0.0)
    assert shown(wanted) == [("preview", 1, 0), ("progress", 2, 0)]


def test_an_event_that_readers_share_is_not_changed_for_one_of_them() -> None:
    events = a_ring(progress(), progress())
    ring.pull(events, ring.Reader(), now=0.0)
    assert [event.coalesced for event in events.after(0)] == [0, 0]


KINDS = strategies.sampled_from([progress, started, preview])


@hypothesis.given(
    strategies.lists(strategies.tuples(KINDS, strategies.booleans()), max_size=40),
    strategies.sampled_from([0.0, 0.1, 3.0]),
    strategies.booleans(),
)
def test_every_sequence_number_is_accounted_for_exactly_once(
    history: list[tuple[type[worker_pb2.GenerationEvent], bool]],
    min_interval: float,
    wants_previews: bool,
) -> None:
    events = a_ring(max_events=8)
    reader = ring.Reader(min_interval=min_interval, wants_previews=wants_previews)
    given: list[worker_pb2.GenerationEvent] = []
    for now, (make, is_pulled) in enumerate([*history, (started, True)]):
        events.append(make())
        if is_pulled:
            pull = ring.pull(events, reader, float(now))
            given += pull.events
            reader = pull.reader
    accounted = 0
    for event in given:
        if event.HasField("gap"):
            assert event.gap.first_available_sequence == event.sequence + 1 > accounted
            accounted = event.sequence
        else:
            assert event.sequence == accounted + event.coalesced + 1
            accounted = event.sequence
    assert accounted == events.last_sequence
    assert reader.progress_at >= 0 or reader.progress_at == -math.inf

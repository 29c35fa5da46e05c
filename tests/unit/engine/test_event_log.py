"""Events are kept in bounds, in order, and none goes unaccounted for."""

from hypothesis import given, strategies

from kubediffusion import _events
from kubediffusion_proto.v1 import worker_pb2


def event(kind: str, sequence: int) -> worker_pb2.GenerationEvent:
    message = worker_pb2.GenerationEvent(request_id="r", sequence=sequence, attempt=1)
    getattr(message, kind).SetInParent()
    return message


def read(log: _events.EventLog, after: int = 0) -> list[_events.Note]:
    notes = []
    while (note := log.after(after)) is not None:
        notes.append(note)
        after = note.number
    return notes


def test_listener_that_comes_late_hears_everything() -> None:
    log = _events.EventLog()
    for sequence, kind in enumerate(["queued", "started", "progress", "succeeded"], 1):
        log.append(kind, "a", event(kind, sequence))
    assert [note.kind for note in read(log)] == ["queued", "started", "progress", "succeeded"]
    assert [note.kind for note in read(log, after=2)] == ["progress", "succeeded"]
    assert read(log, after=4) == []


def test_progress_gives_way_to_newer_progress_and_is_counted() -> None:
    log = _events.EventLog()
    log.append("started", "a", event("started", 1))
    for sequence in range(2, 2000):
        log.append("progress", "a", event("progress", sequence))
    log.append("succeeded", "a", event("succeeded", 2000))
    notes = read(log)
    assert len(notes) <= _events.MAX_KEPT
    assert (notes[0].kind, notes[-1].kind) == ("started", "succeeded")
    assert sum(1 + note.coalesced for note in notes) == 2000


def test_state_changes_stay_when_progress_goes() -> None:
    log = _events.EventLog()
    for sequence in range(1, 3000, 3):
        log.append("parked", "a", event("parked", sequence))
        log.append("progress", "a", event("progress", sequence + 1))
        log.append("preview", "a", event("preview", sequence + 2))
    kinds = [note.kind for note in read(log)]
    assert kinds.count("parked") >= _events.MAX_KEPT - 2


@given(
    strategies.lists(
        strategies.sampled_from(["queued", "progress", "preview", "parked"]), max_size=60
    )
)
def test_numbers_rise_and_nothing_is_heard_twice(kinds: list[str]) -> None:
    log = _events.EventLog()
    heard: list[int] = []
    for sequence, kind in enumerate(kinds, 1):
        log.append(kind, "a", event(kind, sequence))
        heard += [note.number for note in read(log, heard[-1] if heard else 0)]
    assert heard == list(range(1, len(kinds) + 1))


def test_compact_log_counts_what_it_left_out() -> None:
    log = _events.EventLog()
    for sequence in range(1, 10):
        log.append("progress", "a", event("progress", sequence))
    log.append("parked", "a", event("parked", 10))
    log.append("progress", "a", event("progress", 11))
    log.compact()
    assert [(note.kind, note.coalesced) for note in read(log)] == [
        ("progress", 8),
        ("parked", 0),
        ("progress", 0),
    ]
    assert read(log)[0].number == 9


def test_event_for_the_user_has_what_the_worker_told() -> None:
    message = event("progress", 7)
    message.progress.step, message.progress.total = 3, 4
    message.progress.eta_seconds = -1.0
    message.time.FromSeconds(1)
    told = _events.from_note("r", 9, _events.Note(1, "progress", "a", message, 5))
    assert (told.kind, told.sequence, told.attempt, told.step) == ("progress", 7, 1, 3)
    assert (told.worker, told.coalesced) == ("a", 5)
    assert told.progress is not None
    assert told.progress.fraction == 0.75
    assert told.progress.eta_seconds is None
    assert told.time is not None
    assert told.time.timestamp() == 1.0
    assert not told.is_terminal
    assert told.preview is None


def test_event_of_the_engine_has_its_attempt() -> None:
    told = _events.from_note("r", 2, _events.Note(1, "moved", "a", None, 0))
    assert (told.kind, told.sequence, told.attempt, told.time) == ("moved", 0, 2, None)

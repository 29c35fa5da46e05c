import pytest

from kubediffusion import _events
from kubediffusion.cli import news
from kubediffusion_proto.v1 import worker_pb2


def step(number, total=8, name="cat"):
    return news.News(request_id=name, kind=news.Kind.STEP, step=number, total=total)


def lines(items):
    digest = news.Digest()
    return [line for item in items for line in digest.lines(item)]


def test_progress_tells_steps_and_what_is_left():
    event = worker_pb2.GenerationEvent(
        request_id="cat", progress=worker_pb2.Progress(step=3, total=8, eta_seconds=2.0)
    )
    assert news.of_event(event) == news.News(
        request_id="cat", kind=news.Kind.STEP, step=3, total=8, eta_seconds=2.0
    )


def test_a_negative_estimate_is_none():
    event = worker_pb2.GenerationEvent(progress=worker_pb2.Progress(step=1, eta_seconds=-1.0))
    assert news.of_event(event).eta_seconds is None


@pytest.mark.parametrize(
    ("event", "kind", "is_last"),
    [
        ({"started": worker_pb2.StartedEvent()}, news.Kind.STARTED, False),
        ({"succeeded": worker_pb2.SucceededEvent()}, news.Kind.SUCCEEDED, True),
        ({"cancelled": worker_pb2.CancelledEvent()}, news.Kind.CANCELLED, True),
        ({"parked": worker_pb2.ParkedEvent()}, news.Kind.NOTE, False),
    ],
)
def test_events_are_told_by_what_they_mean(event, kind, is_last):
    item = news.of_event(worker_pb2.GenerationEvent(**event))
    assert (item.kind, item.is_last) == (kind, is_last)


@pytest.mark.parametrize(
    ("event", "detail"),
    [
        ({"parked": worker_pb2.ParkedEvent(step=3)}, "parked after step 3"),
        ({"unpaused": worker_pb2.UnpausedEvent()}, "goes on"),
        (
            {"resumed": worker_pb2.ResumedEvent(from_step=3, exactness="EXACTNESS_EXACT")},
            "goes on after step 3, bit for bit",
        ),
        (
            {"resumed": worker_pb2.ResumedEvent(from_step=3, exactness="EXACTNESS_CLOSE")},
            "goes on after step 3; the result may differ a little",
        ),
        (
            {"resumed": worker_pb2.ResumedEvent(exactness="EXACTNESS_RESTARTED")},
            "begins anew from its seed",
        ),
        (
            {
                "handed_over": worker_pb2.HandedOverEvent(
                    checkpoint=worker_pb2.CheckpointInfo(step=3)
                )
            },
            "handed over after step 3",
        ),
        ({"handed_over": worker_pb2.HandedOverEvent()}, "handed over, to begin anew"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_move_is_told_with_its_step_and_what_it_means(event, detail):
    item = news.of_event(worker_pb2.GenerationEvent(**event))
    assert (item.kind, item.detail) == (news.Kind.NOTE, detail)


def checkpointed(number):
    event = worker_pb2.CheckpointedEvent(step=number, size=2_000)
    return news.of_event(worker_pb2.GenerationEvent(request_id="cat", checkpointed=event))


def test_a_checkpoint_is_told_with_its_step_and_size():
    assert lines([checkpointed(3)]) == ["cat: checkpoint after step 3, 2.0 kB"]


def test_of_many_checkpoints_a_line_is_written_for_each_quarter():
    items = [item for number in range(1, 9) for item in (step(number), checkpointed(number))]
    saved = [line for line in lines(items) if "checkpoint" in line]
    assert [line.split(",")[0] for line in saved] == [
        f"cat: checkpoint after step {number}" for number in (1, 2, 4, 6, 8)
    ]


def test_a_failure_tells_message_and_reason():
    error = worker_pb2.Error(reason="PIPELINE_ERROR", message="it raised")
    event = worker_pb2.GenerationEvent(failed=worker_pb2.FailedEvent(error=error))
    assert news.of_event(event).detail == "it raised (PIPELINE_ERROR)"


def test_a_place_in_the_queue_is_told():
    event = worker_pb2.GenerationEvent(queued=worker_pb2.QueuedEvent(position=1))
    assert news.of_event(event).detail == "1 ahead in the queue"


def test_an_event_that_only_newer_workers_know_is_no_error():
    assert news.of_event(worker_pb2.GenerationEvent()).detail == "unknown"


def test_of_many_steps_a_line_is_written_for_each_quarter():
    assert lines(step(number) for number in range(1, 9)) == [
        "cat: step 2/8",
        "cat: step 4/8",
        "cat: step 6/8",
        "cat: step 8/8",
    ]


def test_without_a_total_a_line_is_written_for_ten_steps():
    assert lines(step(number, total=0) for number in range(1, 25)) == [
        "cat: step 10",
        "cat: step 20",
    ]


def test_quarters_are_counted_for_each_generation():
    assert lines([step(4), step(4, name="dog")]) == ["cat: step 4/8", "dog: step 4/8"]


@pytest.mark.parametrize(
    ("kind", "detail", "line"),
    [
        (news.Kind.QUEUED, "", "cat: queued"),
        (news.Kind.STARTED, "started on worker-1", "cat: started on worker-1"),
        (news.Kind.SUCCEEDED, "", "cat: done"),
        (news.Kind.FAILED, "it raised", "cat: failed: it raised"),
        (news.Kind.CANCELLED, "", "cat: cancelled"),
        (news.Kind.NOTE, "parked", "cat: parked"),
    ],
)
def test_every_change_of_state_is_a_line(kind, detail, line):
    assert lines([news.News(request_id="cat", kind=kind, detail=detail)]) == [line]


@pytest.mark.parametrize(
    ("event", "detail"),
    [
        ({"kind": "moved", "worker": "a"}, "has left a; another one will go on"),
        ({"kind": "waiting", "reason": "no worker is there"}, "waits: no worker is there"),
        (
            {"kind": "resumed", "worker": "b", "step": 3, "exactness": "exact"},
            "goes on after step 3, bit for bit, on b",
        ),
        ({"kind": "parked", "step": 3}, "parked after step 3"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_what_an_engine_tells_of_a_move_is_told_in_words(event, detail):
    given = {"request_id": "cat", "sequence": 0, "attempt": 1, "time": None, "worker": ""}
    item = news.of_engine(_events.GenerationEvent(**{**given, **event}))
    assert (item.kind, item.detail) == (news.Kind.NOTE, detail)


def test_a_checkpoint_that_an_engine_tells_of_is_one():
    event = _events.GenerationEvent(
        kind="checkpointed",
        request_id="cat",
        sequence=1,
        attempt=1,
        time=None,
        worker="a",
        step=3,
        checkpoint_bytes=2000,
    )
    assert news.of_engine(event) == checkpointed(3)

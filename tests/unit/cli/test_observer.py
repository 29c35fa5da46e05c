import asyncio
from typing import Any

import pytest

from kubediffusion.cli import observer
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

RUNNING = worker_pb2.GENERATION_STATE_RUNNING


class ScriptedLink:
    """Answers lists and watches from a script; what is asked is kept in `asked`."""

    def __init__(self, name="w", generations=(), streams=(), error=None):
        self.name = self.address = name
        self.generations = list(generations)
        self.streams = list(streams)
        self.error = error
        self.asked = []

    async def get_worker(self, engine_id=""):
        if self.error:
            raise self.error
        return worker_pb2.GetWorkerResponse(worker=worker_pb2.Worker(name=self.name))

    async def list_generations(self, request):
        if self.error:
            raise self.error
        yield worker_pb2.ListGenerationsResponse(
            generations=[g for g in self.generations if request.engine_id in ("", g.engine_id)]
        )

    async def watch_generations(self, request):
        self.asked.append(request)
        for item in self.streams.pop(0):
            if isinstance(item, Exception):
                raise item
            yield worker_pb2.WatchGenerationsResponse(events=[item])

    async def cancel_generation(self, request):
        self.asked.append(request)
        return worker_pb2.CancelGenerationResponse(state=RUNNING)


def scripted(*args, **kwargs) -> Any:  # Any: a link in those methods that are called.
    return ScriptedLink(*args, **kwargs)


def generation(name="cat", engine="e", attempt=1, state=RUNNING):
    return worker_pb2.Generation(request_id=name, engine_id=engine, attempt=attempt, state=state)


def event(sequence, **fields):
    return worker_pb2.GenerationEvent(request_id="cat", engine_id="e", sequence=sequence, **fields)


def followed(*links):
    async def collect():
        return [e.sequence async for e in observer.events(links, "cat")]

    return asyncio.run(collect())


def appearing(link, generation):
    """Make a link hold a generation from the second time it is asked on."""
    listed = link.list_generations

    async def list_generations(request):
        async for answer in listed(request):
            yield answer
        link.generations = [generation]

    link.list_generations = list_generations
    return link


def located(*links, engine_id=""):
    return asyncio.run(observer.locate(links, "cat", engine_id))


def test_a_generation_is_found_on_the_worker_that_holds_it():
    holder = scripted("b", [generation()])
    assert located(scripted("a", [generation("dog")]), holder).link is holder


def test_the_newest_attempt_counts():
    old, new = scripted("a", [generation()]), scripted("b", [generation(attempt=2)])
    assert located(old, new).link is new


def test_an_id_that_nobody_knows_is_an_error_that_names_it():
    with pytest.raises(errors.GenerationNotFoundError, match="'cat'"):
        located(scripted())


def test_an_unknown_id_may_be_on_a_worker_that_is_silent():
    silent = scripted("b", error=errors.WorkerGoneError("gone"))
    with pytest.raises(errors.GenerationNotFoundError, match="1 more did not answer"):
        located(scripted("a"), silent)


def test_an_id_that_several_engines_use_is_ambiguous_until_one_is_named():
    link = scripted("a", [generation(engine="x"), generation(engine="y")])
    with pytest.raises(errors.InvalidRequestError, match="x, y; say which with --engine-id"):
        located(link)
    assert located(link, engine_id="y").generation.engine_id == "y"


def test_if_no_worker_answers_the_first_reason_is_raised():
    links = [scripted(n, error=errors.WorkerGoneError(f"{n} is gone")) for n in "ab"]
    with pytest.raises(errors.WorkerGoneError, match="a is gone"):
        asyncio.run(observer.survey(links))


def test_a_silent_worker_is_described_as_unreachable():
    link = scripted(error=errors.WorkerGoneError("gone"))
    view = asyncio.run(observer.describe(link, now=0.0))
    assert (view.state, view.problem) == ("UNREACHABLE", "gone")


def test_events_are_followed_to_the_end():
    end = event(2, succeeded=worker_pb2.SucceededEvent())
    link = scripted(generations=[generation()], streams=[[event(1), end]])
    assert followed(link) == [1, 2]


def test_a_lost_stream_goes_on_after_the_last_event(monkeypatch):
    monkeypatch.setattr(observer, "_RETRY_DELAY", 0.0)
    end = event(3, failed=worker_pb2.FailedEvent())
    streams = [[event(1), event(2), errors.WorkerGoneError("cut")], [end]]
    link = scripted(generations=[generation()], streams=streams)
    assert followed(link) == [1, 2, 3]
    assert link.asked[-1].after_sequences["cat"] == 2


def test_a_generation_that_was_handed_over_is_followed_to_its_next_worker(monkeypatch):
    monkeypatch.setattr(observer, "_RETRY_DELAY", 0.0)
    gone = scripted("a", [generation()], [[event(1, handed_over=worker_pb2.HandedOverEvent())]])
    end = event(5, succeeded=worker_pb2.SucceededEvent())
    late = scripted("b", streams=[[end]])
    assert followed(gone, appearing(late, generation(attempt=2))) == [1, 5]


def test_a_generation_that_nobody_takes_over_is_given_up(monkeypatch):
    monkeypatch.setattr(observer, "_RETRY_DELAY", 0.0)
    monkeypatch.setattr(observer, "_PATIENCE", 0.0)
    link = scripted(generations=[generation()], streams=[[event(1)], []])
    with pytest.raises(errors.NoWorkerError, match="handed over"):
        followed(link)


def test_watching_is_an_observers_call():
    link = scripted(
        generations=[generation()], streams=[[event(1, cancelled=worker_pb2.CancelledEvent())]]
    )
    followed(link)
    assert link.asked[0].caller == worker_pb2.Caller(engine_id="e", role=worker_pb2.ROLE_OBSERVER)


def test_a_cancel_comes_from_a_person_and_carries_no_epoch():
    link = scripted()
    state = asyncio.run(observer.cancel(observer.Sighting(link, generation())))
    assert state == "RUNNING"
    assert link.asked[0].caller == worker_pb2.Caller(engine_id="e", role=worker_pb2.ROLE_OPERATOR)

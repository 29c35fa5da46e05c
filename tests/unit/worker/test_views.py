import pathlib

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import config, encodings, identity, model, testing, views
from machines import a_machine

Key = identity.GenerationKey


def test_the_encodings_are_those_of_the_encoder() -> None:
    assert views.ENCODINGS == encodings.SUPPORTED


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("demo", "demo"),
        ("owner/model", "owner/model"),
        ("/models/tiny", "tiny"),
        ("/models/tiny/", "tiny"),
        ("file:///models/tiny", "tiny"),
    ],
)
def test_a_folder_goes_by_its_last_part_and_a_hub_id_as_it_is(given: str, name: str) -> None:
    assert views.model_id(given) == name
    assert views.model_names(given) == {given, name}


def test_a_relative_folder_goes_by_its_last_part(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert views.model_id("models/tiny") == "tiny"


def test_before_the_model_is_loaded_only_what_was_asked_for_is_known() -> None:
    settings = config.WorkerConfig(model=model.ModelConfig(model="owner/m", revision="main"))
    found = views.model(settings, None)
    assert found == worker_pb2.Model(id="owner/m", revision="main")
    loaded = views.model(settings, testing.FakePipeline(revision="abc"))
    assert (loaded.revision, loaded.pipeline) == ("abc", "FakePipeline")


def test_a_running_generation_tells_the_age_of_its_progress() -> None:
    machine = a_machine()
    machine.submit("a", priority=3, attempt=2)
    machine.step(machine.started("a"), 1, total=4)
    found = views.one_generation(machine["a"], machine.now + 7.5)
    assert found.progress_age.ToNanoseconds() == 7_500_000_000
    assert (found.state, found.progress.step) == (worker_pb2.GENERATION_STATE_RUNNING, 1)
    assert (found.priority, found.attempt, found.last_sequence) == (3, 2, 3)


def test_a_failed_generation_tells_its_error() -> None:
    machine = a_machine()
    machine.submit("a", deadline=machine.now + 1)
    machine.tick(2.0)
    found = views.one_generation(machine["a"], machine.now)
    assert found.error.reason == errors.DeadlineExceededError.reason
    assert not found.HasField("progress_age")
    assert not found.HasField("result")


def test_a_listing_tells_the_places_in_the_queue() -> None:
    machine = a_machine()
    for name, priority in (("running", 0), ("low", -1), ("high", 1), ("normal", 0)):
        machine.submit(name, priority=priority)
    listing = views.generations(
        machine.core, worker_pb2.ListGenerationsRequest(engine_id="e"), machine.now
    )
    assert {found.request_id: found.position for found in listing} == {
        **{"running": 0, "high": 0, "normal": 0, "low": 1},  # The urgent one has overtaken.
    }

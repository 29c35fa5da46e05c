"""What users see when answers are lost, workers die and engines are replaced."""

import pathlib
from collections.abc import Iterator

import pytest

import engine_fleet
import kubediffusion
from kubediffusion import errors
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import identifiers
from kubediffusion_worker import testing

gated = engine_fleet.gated
PATIENCE = engine_fleet.PATIENCE


@pytest.fixture(name="fleet")
def one_worker() -> Iterator[engine_fleet.FakeFleet]:
    with engine_fleet.fleet("a") as fleet:
        yield fleet


@pytest.fixture(name="pair")
def two_workers() -> Iterator[engine_fleet.FakeFleet]:
    with engine_fleet.fleet("a", "b") as fleet:
        yield fleet


def started(engine: kubediffusion.DiffusionEngine, name: str) -> kubediffusion.Generation:
    generation = engine.submit(gated(name))
    engine_fleet.wait_for(generation, "started")
    return generation


def pixels(name: str) -> bytes:
    return testing.output_bytes(identifiers.derive_seed("e", name), 192)


def check(output: kubediffusion.OmniRequestOutput) -> None:
    assert bytes(output.data) == pixels(output.request_id)


@pytest.mark.parametrize("method", ["submit", "ack", "fetch", "get_worker", "cancel"])
def test_lost_answer_costs_neither_the_request_nor_a_second_run(
    fleet: engine_fleet.FakeFleet, method: str
) -> None:
    with fleet.engine() as engine:
        fleet.call(lambda: fleet.link("a").losing.update({method: 2}))
        generation = engine.submit({"prompt": "p", "request_id": "r"})
        check(generation.result(timeout=PATIENCE))
        assert fleet.executions == 1
        fleet.until(lambda: not fleet.workers["a"].held)


def test_lost_answer_to_a_cancel_is_asked_again(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine() as engine:
        generation = started(engine, "r")
        fleet.call(lambda: fleet.link("a").losing.update(cancel=1))
        generation.cancel()
        with pytest.raises(errors.GenerationCancelledError):
            generation.result(timeout=PATIENCE)


def test_cut_connection_loses_no_event(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine() as engine:
        generation = started(engine, "r")
        for _ in range(5):
            fleet.call(fleet.link("a").break_streams)
            fleet.allow(1)
        fleet.allow()
        heard = list(generation.events())
        sequences = [event.sequence for event in heard]
        assert len(set(sequences)) == len(sequences)
        assert sequences[-1] - sequences[0] == len(sequences) - 1 + sum(
            event.coalesced for event in heard
        )
        check(generation.result(timeout=PATIENCE))


def test_worker_out_of_reach_for_a_moment_keeps_its_work(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine() as engine:
        generation = started(engine, "r")
        fleet.cut("a")
        fleet.allow()
        fleet.until(lambda: fleet.workers["a"].pipeline.gate is not None)
        fleet.heal("a")
        output = generation.result(timeout=PATIENCE)
        assert output.attempt == 1
        assert fleet.executions == 1


def test_dead_worker_is_replaced_by_its_next_life(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine() as engine:
        generation = started(engine, "r")
        fleet.kill("a")
        fleet.allow()
        output = generation.result(timeout=PATIENCE)
        check(output)
        assert output.attempt == 2
        kinds = [event.kind for event in generation]
        assert kinds.index("moved") < kinds.index("queued", kinds.index("moved"))


def test_work_of_a_dead_worker_goes_to_another(pair: engine_fleet.FakeFleet) -> None:
    with pair.engine() as engine:
        generations = [started(engine, name) for name in ("r1", "r2")]
        lost, kept = sorted(generations, key=lambda each: each.worker)
        pair.kill("a", restart=False)
        pair.call(lambda: setattr(pair.link("a"), "is_gone", True))
        pair.allow()
        assert lost.result(timeout=PATIENCE).worker == "b"
        assert lost.attempt == 2
        assert kept.result(timeout=PATIENCE).attempt == 1


def test_unreachable_worker_is_taken_over_and_cleaned_up_later(
    pair: engine_fleet.FakeFleet,
) -> None:
    with pair.engine(takeover_seconds=0.05) as engine:
        generation = started(engine, "r")
        first = generation.worker
        pair.cut(first)
        engine_fleet.wait_for(generation, "moved")
        pair.heal(first)
        pair.until(lambda: generation.attempt == 2 or generation.worker != first)
        pair.allow()
        check(generation.result(timeout=PATIENCE))
        engine.submit({"prompt": "p", "request_id": "last"}).result(timeout=PATIENCE)
        pair.until(lambda: not any(worker.held for worker in pair.workers.values()))


def test_first_result_of_two_wins(pair: engine_fleet.FakeFleet) -> None:
    with pair.engine(takeover_seconds=0.05) as engine:
        generation = started(engine, "r")
        first = generation.worker
        (second,) = {"a", "b"} - {first}
        pair.cut(first)
        pair.until(lambda: generation.worker == second)
        pair.workers[first].pipeline.gate.allow(1000)
        pair.heal(first)
        output = generation.result(timeout=PATIENCE)
        check(output)
        assert output.worker == first
        pair.until(lambda: not any(worker.held for worker in pair.workers.values()))


def test_worker_that_was_told_to_forget_may_be_asked_again(pair: engine_fleet.FakeFleet) -> None:
    with pair.engine(takeover_seconds=0.05) as engine:
        generation = started(engine, "r")
        first = generation.worker
        (second,) = {"a", "b"} - {first}
        pair.cut(first)
        pair.until(lambda: generation.worker == second)
        pair.heal(first)
        pair.until(lambda: not pair.workers[first].held)
        pair.kill(second, restart=False)
        pair.call(lambda: setattr(pair.link(second), "is_gone", True))
        pair.allow()
        output = generation.result(timeout=PATIENCE)
        check(output)
        assert (output.worker, output.attempt) == (first, 3)


def test_request_waits_for_a_worker_to_come(fleet: engine_fleet.FakeFleet) -> None:
    fleet.kill("a", restart=False)
    with fleet.engine() as engine:
        generation = engine.submit({"prompt": "p", "request_id": "r"})
        assert generation.state is kubediffusion.GenerationState.PENDING
        fleet.run(fleet.workers["a"].start())
        check(generation.result(timeout=PATIENCE))


def test_full_worker_is_fed_as_it_empties() -> None:
    limits = engine_fleet.small_queue(2)
    with engine_fleet.fleet("a", bounds=limits) as fleet, fleet.engine() as engine:
        requests = [{"prompt": "p", "seed": seed} for seed in range(12)]
        outputs = engine.step(requests, timeout=PATIENCE)
        assert [output.seed for output in outputs] == list(range(12))
        assert fleet.executions == 12


@pytest.mark.parametrize("is_durable", [False, True])
def test_next_engine_finds_what_runs(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path, is_durable: bool
) -> None:
    state_dir = tmp_path if is_durable else None
    first = fleet.engine(state_dir=state_dir)
    before = [event.sequence for event in _until_started(first.submit(gated("r")))]
    engine_fleet.crash(first)
    with fleet.engine(state_dir=state_dir) as engine:
        generation = engine.generation("r")
        fleet.allow()
        after = list(generation.events())
        assert [event.sequence for event in after][: len(before)] == before
        check(generation.result(timeout=PATIENCE))
        assert fleet.executions == 1


def _until_started(
    generation: kubediffusion.Generation,
) -> Iterator[kubediffusion.GenerationEvent]:
    for event in generation.events():
        yield event
        if event.kind == "started":
            return


@pytest.mark.parametrize("is_durable", [False, True])
def test_next_engine_gets_results_that_nobody_took(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path, is_durable: bool
) -> None:
    state_dir = tmp_path if is_durable else None
    first = fleet.engine(state_dir=state_dir)
    generation = first.submit({"prompt": "p", "request_id": "r"})
    fleet.until(lambda: generation.done)
    engine_fleet.crash(first)
    with fleet.engine(state_dir=state_dir) as engine:
        check(engine.generation("r").result(timeout=PATIENCE))
        assert fleet.executions == 1


def test_next_engine_gets_results_again_that_were_taken(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path
) -> None:
    with fleet.engine(state_dir=tmp_path) as first:
        request = {"prompt": "p", "request_id": "r"}
        first.step(request)
        fleet.until(lambda: not fleet.workers["a"].held)
    with fleet.engine(state_dir=tmp_path) as engine:
        output = engine.generation("r").result()
        check(output)
        assert (output.prompt, output.worker, output.exactness) == ("p", "a", "exact")
        check(engine.step(request))
        with pytest.raises(errors.RequestConflictError):
            engine.submit({"prompt": "q", "request_id": "r"})
        assert fleet.executions == 1


def test_next_engine_remembers_failures(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path
) -> None:
    with fleet.engine(state_dir=tmp_path) as first:
        first.step({"prompt": "p", "request_id": "r", "extra_args": {"raises": "pipeline"}})
    with (
        fleet.engine(state_dir=tmp_path) as engine,
        pytest.raises(errors.PipelineError, match="a fake shape"),
    ):
        engine.generation("r").result()


def test_next_engine_sends_what_no_worker_had_yet(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path
) -> None:
    fleet.kill("a", restart=False)
    first = fleet.engine(state_dir=tmp_path)
    first.submit({"prompt": "p", "request_id": "r"})
    engine_fleet.crash(first)
    fleet.run(fleet.workers["a"].start())
    with fleet.engine(state_dir=tmp_path) as engine:
        check(engine.generation("r").result(timeout=PATIENCE))


def test_next_engine_computes_again_what_died_with_its_worker(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path
) -> None:
    first = fleet.engine(state_dir=tmp_path)
    started(first, "r")
    engine_fleet.crash(first)
    fleet.kill("a")
    fleet.allow()
    with fleet.engine(state_dir=tmp_path) as engine:
        output = engine.generation("r").result(timeout=PATIENCE)
        check(output)
        assert output.attempt == 2


def test_next_engine_without_a_journal_cannot_compute_again(
    fleet: engine_fleet.FakeFleet,
) -> None:
    first = fleet.engine()
    started(first, "r")
    engine_fleet.crash(first)
    with fleet.engine() as engine:
        generation = engine.generation("r")
        fleet.kill("a")
        with pytest.raises(errors.WorkerGoneError, match="submit it again"):
            generation.result(timeout=PATIENCE)


def test_adopted_generation_can_be_claimed_with_its_request(
    fleet: engine_fleet.FakeFleet,
) -> None:
    first = fleet.engine()
    started(first, "r")
    engine_fleet.crash(first)
    with fleet.engine() as engine:
        generation = engine.submit(gated("r"))
        fleet.kill("a")
        fleet.allow()
        check(generation.result(timeout=PATIENCE))
        with pytest.raises(errors.RequestConflictError):
            engine.submit({"prompt": "other", "request_id": "r"})


def test_adopted_generation_with_other_content_is_a_conflict(
    fleet: engine_fleet.FakeFleet,
) -> None:
    first = fleet.engine()
    started(first, "r")
    engine_fleet.crash(first)
    with fleet.engine() as engine, pytest.raises(errors.RequestConflictError):
        engine.submit({"prompt": "other", "request_id": "r"})


def test_cancel_survives_the_engine(fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path) -> None:
    first = fleet.engine(state_dir=tmp_path)
    generation = started(first, "r")
    fleet.call(lambda: fleet.link("a").losing.update(cancel=100))
    fleet.cut("a")
    generation.cancel()
    engine_fleet.crash(first)
    with (
        fleet.engine(state_dir=tmp_path) as engine,
        pytest.raises(errors.GenerationCancelledError),
    ):
        engine.generation("r").result(timeout=PATIENCE)


def test_newer_engine_of_the_same_id_fences_the_older_one(
    fleet: engine_fleet.FakeFleet,
) -> None:
    with fleet.engine() as older:
        generation = started(older, "r")
        with fleet.engine() as newer:
            with pytest.raises(errors.StaleEpochError):
                generation.result(timeout=PATIENCE)
            with pytest.raises(errors.StaleEpochError):
                older.submit("p")
            with pytest.raises(errors.StaleEpochError):
                older.check_health()
            fleet.allow()
            check(newer.generation("r").result(timeout=PATIENCE))


def test_two_engines_with_one_state_dir_are_refused(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubediffusion._statedir.LOCK_SECONDS", 0.0)
    with (
        fleet.engine(state_dir=tmp_path),
        pytest.raises(errors.JournalError, match="another engine"),
    ):
        fleet.engine(state_dir=tmp_path)
    with fleet.engine(state_dir=tmp_path) as engine:
        assert engine.step("p").images


def test_engines_with_other_ids_share_a_worker(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine(engine_id="e1") as first, fleet.engine(engine_id="e2") as second:
        request = {"prompt": "p", "request_id": "r"}
        one, two = first.step(request), second.step(request)
        assert one.seed != two.seed
        assert fleet.executions == 2


def test_full_disk_refuses_new_requests_and_lets_the_others_end(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path
) -> None:
    with fleet.engine(state_dir=tmp_path) as engine:
        generation = started(engine, "r")
        core = engine._assembly._core
        assert core is not None
        database = core._ledger.journal._database  # type: ignore[attr-defined]  # SQLite's
        fleet.call(lambda: database.execute("PRAGMA max_page_count = 1").close())
        with pytest.raises(errors.JournalError, match="full"):
            engine.submit({"prompt": "x" * 20_000})
        fleet.allow()
        check(generation.result(timeout=PATIENCE))


def test_results_beyond_the_cache_are_not_lost(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine(result_cache_bytes=1000) as engine:
        generations = [engine.submit({"prompt": "p", "request_id": f"r{n}"}) for n in range(30)]
        fleet.until(lambda: all(generation.done for generation in generations))
        for generation in generations:
            check(generation.result(timeout=PATIENCE))
        assert fleet.executions == 30


def test_result_stays_on_the_worker_until_it_was_taken(fleet: engine_fleet.FakeFleet) -> None:
    with fleet.engine() as engine:
        generation = engine.submit({"prompt": "p", "request_id": "r"})
        fleet.until(lambda: generation.done)
        assert fleet.workers["a"].held == ["r"]
        generation.result()
        fleet.until(lambda: not fleet.workers["a"].held)


def test_stored_result_frees_the_worker_at_once(
    fleet: engine_fleet.FakeFleet, tmp_path: pathlib.Path
) -> None:
    with fleet.engine(state_dir=tmp_path) as engine:
        generation = engine.submit({"prompt": "p", "request_id": "r"})
        fleet.until(lambda: generation.done and not fleet.workers["a"].held)


def test_request_that_breaks_two_workers_is_not_tried_again(
    pair: engine_fleet.FakeFleet,
) -> None:
    with pair.engine() as engine:
        output = engine.step({"prompt": "p", "extra_args": {"raises": "sticky"}}, timeout=PATIENCE)
        assert isinstance(output.error, errors.PoisonedError)
        assert pair.executions == 2


def test_state_of_workers_is_told(pair: engine_fleet.FakeFleet) -> None:
    with pair.engine() as engine:
        pair.cut("a")
        states = {worker.name: worker.state for worker in engine.workers()}
        assert states["b"] == "serving"
        with pytest.raises(errors.WorkerGoneError):
            engine.check_health()


def test_epoch_rises_with_every_start(fleet: engine_fleet.FakeFleet) -> None:
    def epoch() -> int:
        worker = fleet.workers["a"].runtime
        assert worker is not None
        request = worker_pb2.GetWorkerRequest(engine_id="e")
        answer: worker_pb2.GetWorkerResponse = fleet.run(worker.get_worker(request))
        return answer.engine_epoch

    epochs = []
    for _ in range(3):
        with fleet.engine() as engine:
            engine.step("p")
            epochs.append(epoch())
    assert epochs == sorted(set(epochs))

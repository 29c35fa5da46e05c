"""Where a generation goes on when its worker dies, leaves or hangs."""

import pathlib
import stat
from collections.abc import Iterator

import pytest

import kubediffusion
import scripted_fleet
from kubediffusion import _keeper, errors
from kubediffusion_proto.v1 import worker_pb2

PATIENCE = scripted_fleet.PATIENCE


@pytest.fixture(name="a")
def worker_a() -> scripted_fleet.ScriptedWorker:
    return scripted_fleet.ScriptedWorker("a")


@pytest.fixture(name="b")
def worker_b() -> scripted_fleet.ScriptedWorker:
    return scripted_fleet.ScriptedWorker("b")


@pytest.fixture(name="fleet")
def two_workers(
    a: scripted_fleet.ScriptedWorker, b: scripted_fleet.ScriptedWorker
) -> Iterator[scripted_fleet.ScriptedFleet]:
    with scripted_fleet.fleet(a, b) as fleet:
        yield fleet


@pytest.fixture(name="engine")
def an_engine(fleet: scripted_fleet.ScriptedFleet) -> Iterator[kubediffusion.DiffusionEngine]:
    with fleet.engine() as engine:
        yield engine


Fleet = scripted_fleet.ScriptedFleet
Worker = scripted_fleet.ScriptedWorker


def begin(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, worker: Worker, **fields: object
) -> kubediffusion.Generation:
    """Submit a request and let it run on a worker."""
    generation = engine.submit({"prompt": "p", "request_id": "r", **fields})
    fleet.until(lambda: "r" in worker.held)
    fleet.do(worker.start, "r")
    return generation


def save(fleet: Fleet, worker: Worker, step: int) -> None:
    """Save after a step, and wait until the engine has it."""
    fleet.do(worker.step, "r", step)
    fleet.do(worker.save, "r", step)
    fleet.until(lambda: ("r", step) in worker.fetches)


def taken_over(fleet: Fleet, worker: Worker) -> worker_pb2.SubmitGenerationRequest:
    fleet.until(lambda: "r" in worker.held)
    return worker.submitted[-1]


def came_with(worker: Worker, step: int) -> bool:
    """Tell whether the last submit goes on from a step."""
    data = worker.imported.get(worker.submitted[-1].checkpoint_reference, b"")
    return data == scripted_fleet.checkpoint_bytes("r", step)


def test_work_of_a_dead_worker_goes_on_from_its_newest_checkpoint(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    generation = begin(fleet, engine, a)
    save(fleet, a, 2)
    save(fleet, a, 4)
    fleet.do(a.die)
    assert taken_over(fleet, b).attempt == 2
    assert came_with(b, 4)
    fleet.do(b.start, "r")
    fleet.do(
        b.tell,
        "r",
        resumed=worker_pb2.ResumedEvent(from_step=4, exactness=worker_pb2.EXACTNESS_EXACT),
    )
    fleet.do(b.finish, "r")
    assert generation.result(timeout=PATIENCE).worker == "b"
    events = [event for event in generation.events() if event.kind in ("moved", "resumed")]
    assert [event.kind for event in events] == ["moved", "resumed"]
    assert (events[1].step, events[1].exactness) == (4, "exact")


def test_older_checkpoint_serves_where_the_newest_is_refused(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    begin(fleet, engine, a)
    save(fleet, a, 2)
    save(fleet, a, 4)
    newest = a.info("r", 4).sha256

    def refuse(
        request: worker_pb2.SubmitGenerationRequest,
    ) -> errors.KubediffusionError | None:
        if request.checkpoint_reference == newest:
            return errors.InvalidCheckpointError("not one of mine")
        return None

    b.submit_error = refuse
    fleet.do(a.die)
    taken_over(fleet, b)
    assert came_with(b, 2)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidCheckpointError("damaged"),
        errors.NotImplementedByWorkerError("knows no checkpoints"),
        errors.MessageTooLargeError("too large"),
    ],
)
def test_request_begins_anew_where_no_checkpoint_is_taken(
    fleet: Fleet,
    engine: kubediffusion.DiffusionEngine,
    a: Worker,
    b: Worker,
    error: errors.KubediffusionError,
) -> None:
    begin(fleet, engine, a)
    save(fleet, a, 2)
    save(fleet, a, 4)
    b.import_error = error
    fleet.do(a.die)
    assert not taken_over(fleet, b).checkpoint_reference


def test_run_that_cannot_use_its_checkpoint_is_tried_with_the_older_one(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    generation = begin(fleet, engine, a)
    save(fleet, a, 2)
    save(fleet, a, 4)
    fleet.do(a.die)
    assert taken_over(fleet, b).attempt == 2
    fleet.do(b.fail, "r", errors.InvalidCheckpointError("it does not line up"))
    fleet.until(lambda: len(b.submitted) == 2 and "r" in b.held)
    assert came_with(b, 2)
    assert not generation.done


def test_hand_over_is_acknowledged_once_its_checkpoint_is_here(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    begin(fleet, engine, a)
    save(fleet, a, 2)
    fleet.do(a.may_fetch.clear)
    fleet.do(a.step, "r", 7)
    fleet.do(a.save, "r", 7)
    fleet.do(a.change_state, worker_pb2.WORKER_STATE_DRAINING)
    fleet.do(a.hand_over, "r")
    assert not a.acknowledged
    assert not b.submitted
    fleet.do(a.may_fetch.set)
    assert taken_over(fleet, b).attempt == 2
    assert came_with(b, 7)
    fleet.until(lambda: a.acknowledged == ["r"])


def test_hand_over_of_a_worker_that_dies_goes_on_from_what_is_here(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    begin(fleet, engine, a)
    save(fleet, a, 2)
    fleet.do(a.may_fetch.clear)
    fleet.do(a.save, "r", 7)
    fleet.do(a.hand_over, "r")
    fleet.do(a.die)
    fleet.do(a.may_fetch.set)
    taken_over(fleet, b)
    assert came_with(b, 2)


def test_hand_over_without_a_checkpoint_is_acknowledged_at_once(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    engine.submit({"prompt": "p", "request_id": "r"})
    fleet.until(lambda: "r" in a.held)
    fleet.do(a.change_state, worker_pb2.WORKER_STATE_DRAINING)
    fleet.do(a.hand_over, "r")
    assert not taken_over(fleet, b).checkpoint_reference
    fleet.until(lambda: a.acknowledged == ["r"])


def test_newest_checkpoint_wins_while_a_fetch_is_under_way(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker
) -> None:
    begin(fleet, engine, a)
    fleet.do(a.may_fetch.clear)
    for step in range(1, 6):
        fleet.do(a.save, "r", step)
    fleet.until(lambda: a.fetching)
    fleet.do(a.may_fetch.set)
    fleet.until(lambda: ("r", 5) in a.fetches)
    assert a.most_fetching == 1
    assert len(a.fetches) <= 2


def test_transfers_are_bounded(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    fleet.do(a.may_fetch.clear)
    fleet.do(b.cut)
    names = [f"r{number}" for number in range(10)]
    for name in names:
        engine.submit({"prompt": "p", "request_id": name})
    fleet.until(lambda: len(a.held) == len(names))
    for name in names:
        fleet.do(a.start, name)
        fleet.do(a.save, name, 1)
    fleet.do(a.may_fetch.set)
    fleet.until(lambda: len(a.fetches) == len(names))
    assert a.most_fetching <= _keeper.MAX_TRANSFERS


def test_checkpoints_are_private_files_that_go_with_their_generation(
    fleet: Fleet, a: Worker, tmp_path: pathlib.Path
) -> None:
    def files() -> list[pathlib.Path]:
        return sorted(tmp_path.rglob("*.safetensors"))

    with fleet.engine(state_dir=tmp_path) as engine:
        generation = begin(fleet, engine, a)
        for step in (2, 4, 6):
            save(fleet, a, step)
        fleet.until(lambda: len(files()) == 2)
        contents = {path.read_bytes() for path in files()}
        assert contents == {scripted_fleet.checkpoint_bytes("r", step) for step in (4, 6)}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files()} == {0o600}
        assert stat.S_IMODE(files()[0].parent.stat().st_mode) == 0o700
        fleet.do(a.finish, "r")
        generation.result(timeout=PATIENCE)
        fleet.until(lambda: not files())


def test_next_engine_goes_on_from_the_journal_when_a_new_worker_appears(
    fleet: Fleet, a: Worker, b: Worker, tmp_path: pathlib.Path
) -> None:
    del fleet.workers["b"]
    with fleet.engine(state_dir=tmp_path) as engine:
        begin(fleet, engine, a)
        save(fleet, a, 2)
        save(fleet, a, 4)
    fleet.do(a.die)
    del fleet.workers["a"]
    with fleet.engine(state_dir=tmp_path) as engine:
        generation = engine.generation("r")
        waiting = next(event for event in generation.events() if event.kind == "waiting")
        assert "no worker is connected" in waiting.reason
        fleet.add(b)
        assert taken_over(fleet, b).attempt == 2
        assert came_with(b, 4)
        fleet.do(b.finish, "r")
        assert generation.result(timeout=PATIENCE).worker == "b"


def test_damaged_file_is_no_checkpoint(
    fleet: Fleet, a: Worker, b: Worker, tmp_path: pathlib.Path
) -> None:
    with fleet.engine(state_dir=tmp_path) as engine:
        begin(fleet, engine, a)
        save(fleet, a, 2)
        save(fleet, a, 4)
        newest = scripted_fleet.checkpoint_bytes("r", 4)
        (path,) = (each for each in tmp_path.rglob("*.safetensors") if each.read_bytes() == newest)
        path.write_bytes(newest[:-1] + b"?")
        fleet.do(a.die)
        taken_over(fleet, b)
        assert came_with(b, 2)


def test_full_disk_costs_no_checkpoint_while_memory_has_room(
    fleet: Fleet, a: Worker, b: Worker, tmp_path: pathlib.Path
) -> None:
    with fleet.engine(state_dir=tmp_path) as engine:
        begin(fleet, engine, a)
        (tmp_path / "engine-e" / "checkpoints").write_text("in the way of the folder")
        save(fleet, a, 2)
        fleet.do(a.die)
        taken_over(fleet, b)
        assert came_with(b, 2)


def test_generation_that_cannot_be_kept_goes_on_and_says_so(
    fleet: Fleet, a: Worker, b: Worker
) -> None:
    with fleet.engine(checkpoint={"memory_bytes": 250}) as engine:
        generation = begin(fleet, engine, a)
        fleet.do(a.save, "r", 1, b"x" * 200)
        fleet.do(a.save, "r", 2, b"y" * 300)
        event = next(each for each in generation.events() if each.kind == "checkpoint_lost")
        assert "no room in memory" in event.reason
        fleet.do(a.die)
        taken_over(fleet, b)
        assert b.imported[b.submitted[-1].checkpoint_reference] == b"x" * 200
        fleet.do(b.finish, "r")
        generation.result(timeout=PATIENCE)


def test_engine_without_fetch_takes_what_is_handed_over(
    fleet: Fleet, a: Worker, b: Worker
) -> None:
    with fleet.engine(checkpoint=False) as engine:
        begin(fleet, engine, a)
        fleet.do(a.save, "r", 1)
        assert not a.fetches
        fleet.do(a.change_state, worker_pb2.WORKER_STATE_DRAINING)
        fleet.do(a.hand_over, "r")
        taken_over(fleet, b)
        assert came_with(b, 1)


def test_exact_request_waits_for_a_worker_with_the_same_fingerprint(
    fleet: Fleet, a: Worker, b: Worker
) -> None:
    b.fingerprint = "other"
    with fleet.engine() as engine:
        generation = begin(fleet, engine, a, min_exactness="exact")
        save(fleet, a, 4)
        fleet.do(a.die)
        event = next(each for each in generation.events() if each.kind == "waiting")
        assert "fingerprint" in event.reason
        assert not b.submitted
        same = scripted_fleet.ScriptedWorker("c")
        fleet.add(same)
        assert taken_over(fleet, same).attempt == 2
        assert came_with(same, 4)


def test_close_request_goes_on_wherever_checkpoints_are_taken(
    fleet: Fleet, a: Worker, b: Worker
) -> None:
    b.fingerprint = "other"
    with fleet.engine() as engine:
        begin(fleet, engine, a)
        save(fleet, a, 4)
        fleet.do(a.die)
        taken_over(fleet, b)
        assert came_with(b, 4)


def test_generation_that_hangs_goes_elsewhere(fleet: Fleet, a: Worker, b: Worker) -> None:
    with fleet.engine(hang_seconds=0.1, hang_factor=0.001) as engine:
        generation = begin(fleet, engine, a)
        for step in (1, 2, 3):
            fleet.do(a.step, "r", step)
        save(fleet, a, 3)
        stuck = a.held["r"]
        fleet.do(a.ages.update, r=1.0)
        assert taken_over(fleet, b).attempt == 2
        assert came_with(b, 3)
        fleet.until(lambda: stuck.wishes == ["cancel"])
        fleet.do(a.tell, "r", cancelled=worker_pb2.CancelledEvent())
        fleet.until(lambda: a.acknowledged == ["r"])
        fleet.do(b.finish, "r")
        assert generation.result(timeout=PATIENCE).worker == "b"


def test_generation_that_waits_for_others_on_its_worker_does_not_hang(
    fleet: Fleet, a: Worker, b: Worker
) -> None:
    fleet.do(b.cut)
    with fleet.engine(hang_seconds=0.05, hang_factor=0.001) as engine:
        generation = begin(fleet, engine, a)
        for step in (1, 2, 3):
            fleet.do(a.step, "r", step)
        engine.submit({"prompt": "q", "request_id": "busy"})
        fleet.until(lambda: "busy" in a.held)
        fleet.do(a.start, "busy")
        fleet.do(a.ages.update, r=1.0, busy=0.0)
        asked = a.listings
        fleet.until(lambda: a.listings > asked + 3)
        assert generation.attempt == 1


def test_worker_that_is_at_the_end_of_another_generation_does_not_hang(
    fleet: Fleet, a: Worker, b: Worker
) -> None:
    fleet.do(b.cut)
    with fleet.engine(hang_seconds=0.05, hang_factor=0.001) as engine:
        generation = begin(fleet, engine, a)
        for step in (1, 2, 3):
            fleet.do(a.step, "r", step)
        engine.submit({"prompt": "q", "request_id": "decoding"})
        fleet.until(lambda: "decoding" in a.held)
        fleet.do(a.start, "decoding")
        fleet.do(a.step, "decoding", 10)
        fleet.do(a.ages.update, r=0.3, decoding=0.3)
        asked = a.listings
        fleet.until(lambda: a.listings > asked + 3)
        assert generation.attempt == 1


def test_worker_that_moves_again_gets_work_again(fleet: Fleet, a: Worker, b: Worker) -> None:
    fleet.do(b.cut)
    with fleet.engine(hang_seconds=0.05, hang_factor=0.001) as engine:
        generation = begin(fleet, engine, a)
        for step in (1, 2, 3):
            fleet.do(a.step, "r", step)
        save(fleet, a, 3)
        stuck = a.held["r"]
        fleet.do(a.ages.update, r=1.0)
        fleet.until(lambda: stuck.wishes == ["cancel"])
        assert generation.attempt == 2
        fleet.do(a.ages.clear)
        fleet.do(a.tell, "r", cancelled=worker_pb2.CancelledEvent())
        fleet.until(lambda: len(a.submitted) == 2)
        assert came_with(a, 3)


def test_paused_generation_stays_paused_on_its_next_worker(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    generation = begin(fleet, engine, a)
    save(fleet, a, 2)
    generation.pause()
    assert a.held["r"].wishes == ["pause"]
    fleet.do(a.tell, "r", parked=worker_pb2.ParkedEvent(step=2))
    fleet.until(lambda: generation.state is kubediffusion.GenerationState.PARKED)
    fleet.do(a.die)
    fleet.until(lambda: generation.attempt == 2)
    assert not b.submitted
    generation.resume()
    taken_over(fleet, b)
    assert came_with(b, 2)


def test_checkpoint_on_request_is_here_when_it_returns(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    generation = begin(fleet, engine, a)
    fleet.do(a.step, "r", 5)
    info = generation.checkpoint()
    assert (info.step, info.worker) == (5, "a")
    fleet.do(a.die)
    taken_over(fleet, b)
    assert came_with(b, 5)


def test_two_deaths_at_the_same_checkpoint_poison_and_tell_the_evidence(
    fleet: Fleet, engine: kubediffusion.DiffusionEngine, a: Worker, b: Worker
) -> None:
    generation = begin(fleet, engine, a)
    save(fleet, a, 4)
    fleet.do(a.die)
    worker = b
    for name in ("b", "c"):
        taken_over(fleet, worker)
        fleet.do(worker.start, "r")
        event = worker_pb2.ResumedEvent(from_step=4, exactness=worker_pb2.EXACTNESS_EXACT)
        fleet.do(worker.tell, "r", resumed=event)
        fleet.until(lambda: generation._record.tracker.resumed_from == 4)
        if name == "b":
            fleet.add(scripted_fleet.ScriptedWorker("c"))
        fleet.do(worker.die)
        worker = fleet.workers["c"]
    with pytest.raises(errors.PoisonedError) as caught:
        generation.result(timeout=PATIENCE)
    assert caught.value.metadata == {
        "attempts": "2, 3",
        "workers": "b, c",
        "steps": "4, 4",
        "resumed_from": "4, 4",
    }

"""Where a generation goes on when its worker dies, leaves or hangs."""

import os
import pathlib
import stat
from collections.abc import Iterator

import pytest

import kubediffusion
import scripted_fleet
from kubediffusion import errors
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

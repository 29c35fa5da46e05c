"""Generations that go on in another worker process, with no step done twice."""

import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import kubediffusion
import served
from kubediffusion.executors import multiproc
from kubediffusion_wire import identifiers
from kubediffusion_worker import testing

PATIENCE = 60.0


class OwnWorkers(multiproc.MultiProcDiffusionExecutor):
    """Starts worker processes with a fake pipeline."""

    program = (sys.executable, "-m", "kubediffusion_worker.testing")


STEPS = 30


@pytest.fixture(name="registry")
def a_registry(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "registry"


@pytest.fixture(name="pair")
def two_processes(registry: pathlib.Path) -> Iterator[dict[str, served.Process]]:
    flags = ("--registry", str(registry), "--log-level", "error", "--grace", "4")
    with (
        served.a_process(*flags, "--name", "a") as a,
        served.a_process(*flags, "--name", "b") as b,
    ):
        yield {"a": a, "b": b}


def engine_over(registry: pathlib.Path, **options: Any) -> kubediffusion.DiffusionEngine:
    return kubediffusion.DiffusionEngine(
        **{
            "engine_id": "e",
            "distributed_executor_backend": "external_launcher",
            "registry": registry,
            "progress_interval": 0.001,
            "takeover_seconds": 1.0,
            **options,
        }
    )


def request(seconds: float = 0.1) -> dict[str, Any]:
    """Return a request of some steps."""
    return {
        "prompt": "p",
        "request_id": "r",
        "num_inference_steps": STEPS,
        "extra_args": {"step_seconds": seconds},
    }


def reach(generation: kubediffusion.Generation, step: int) -> None:
    next(event for event in generation if event.step >= step)


def check(generation: kubediffusion.Generation) -> tuple[int, int]:
    """Check result and events; return the last step before the move and the first after it."""
    output = generation.result(timeout=PATIENCE)
    assert bytes(output.data) == testing.output_bytes(identifiers.derive_seed("e", "r"), 192)
    events = [event for event in generation if event.kind in ("progress", "moved", "resumed")]
    kinds = [event.kind for event in events]
    moved, resumed = kinds.index("moved"), kinds.index("resumed")
    assert moved < resumed
    assert "progress" not in kinds[moved:resumed]
    assert events[resumed].exactness == "exact"
    assert output.exactness == "exact"
    assert output.resumed_from == events[resumed].step
    assert [event.step for event in events[resumed + 1 :]] == list(
        range(events[resumed].step + 1, STEPS + 1)
    )
    return events[moved - 1].step, events[resumed].step


def test_work_of_a_killed_process_goes_on_from_its_newest_checkpoint(
    registry: pathlib.Path, pair: dict[str, served.Process]
) -> None:
    with engine_over(registry) as engine:
        generation = engine.submit(request())
        reach(generation, 3)
        info = generation.checkpoint()
        reach(generation, info.step + 2)
        first = generation.worker
        os.kill(pair[first].process.pid, signal.SIGKILL)
        before, resumed = check(generation)
        assert resumed >= info.step
        assert before >= resumed
        assert generation.worker != first


def test_worker_that_is_told_to_end_hands_over_without_losing_a_step(
    registry: pathlib.Path, pair: dict[str, served.Process]
) -> None:
    with engine_over(registry) as engine:
        generation = engine.submit(request(seconds=0.3))
        reach(generation, 3)
        first = generation.worker
        os.kill(pair[first].process.pid, signal.SIGTERM)
        before, resumed = check(generation)
        assert before == resumed
        assert pair[first].wait() == 0


def test_drained_worker_hands_over_and_takes_work_again(
    registry: pathlib.Path, pair: dict[str, served.Process]
) -> None:
    with engine_over(registry) as engine:
        generation = engine.submit(request())
        reach(generation, 3)
        first = generation.worker
        engine.drain(first, policy="checkpoint", budget=30.0)
        before, resumed = check(generation)
        assert before == resumed
        engine.undrain(first)
        (other,) = {"a", "b"} - {first}
        engine.drain(other, policy="checkpoint", budget=30.0)
        again = engine.submit({"prompt": "q"})
        assert again.result(timeout=PATIENCE).worker == first


def test_generation_that_hangs_goes_on_elsewhere(
    registry: pathlib.Path, pair: dict[str, served.Process], tmp_path: pathlib.Path
) -> None:
    flag = tmp_path / "go"
    flag.touch()
    task = request()
    task["extra_args"]["wait_for"] = str(flag)
    with engine_over(registry, hang_seconds=1.0, hang_factor=0.001) as engine:
        generation = engine.submit(task)
        reach(generation, 3)
        info = generation.checkpoint()
        flag.unlink()  # Its thread stands still now, and its process answers.
        next(event for event in generation if event.kind == "moved")
        flag.touch()
        _, resumed = check(generation)
        assert resumed >= info.step


def test_next_engine_goes_on_from_the_journal_on_a_new_worker(
    registry: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = ("--registry", str(registry), "--log-level", "error")
    with served.a_process(*flags, "--name", "a") as worker:
        with engine_over(registry, state_dir=tmp_path) as engine:
            generation = engine.submit(request())
            reach(generation, 3)
            info = generation.checkpoint()
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.wait()
    with engine_over(registry, state_dir=tmp_path) as engine:
        generation = engine.generation("r")
        with served.a_process(*flags, "--name", "b"):
            output = generation.result(timeout=PATIENCE)
            assert output.resumed_from >= info.step
            assert (output.worker, output.exactness) == ("b", "exact")


def test_own_workers_go_on_from_the_journal_of_a_killed_engine(tmp_path: pathlib.Path) -> None:
    def own() -> kubediffusion.DiffusionEngine:
        return kubediffusion.DiffusionEngine(
            model="fake",
            engine_id="e",
            distributed_executor_backend=OwnWorkers,
            state_dir=tmp_path,
            progress_interval=0.001,
        )

    with own() as engine:
        generation = engine.submit(request())
        reach(generation, 3)
        info = generation.checkpoint()
    with own() as engine:
        output = engine.generation("r").result(timeout=PATIENCE)
        assert output.resumed_from >= info.step
        assert output.attempt == 2

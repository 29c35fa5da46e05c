"""Engines over real worker processes: deaths, restarts, discovery."""

import hashlib
import os
import pathlib
import queue
import signal
import sys
from typing import Any

import kubediffusion
import served
from kubediffusion.executors import failures, multiproc
from kubediffusion_wire import identifiers
from kubediffusion_worker import testing

PATIENCE = 60.0


class FakeWorkers(multiproc.MultiProcDiffusionExecutor):
    """Starts worker processes with a fake pipeline."""

    program = (sys.executable, "-m", "kubediffusion_worker.testing")


def own_workers(**options: Any) -> kubediffusion.DiffusionEngine:
    return kubediffusion.DiffusionEngine(
        **{
            "model": "fake",
            "engine_id": "e",
            "distributed_executor_backend": FakeWorkers,
            "progress_interval": 0.01,
            **options,
        }
    )


def slow(name: str, flag: pathlib.Path) -> dict[str, Any]:
    """Return a request that makes no step before a file is there."""
    return {
        "prompt": "p",
        "request_id": name,
        "num_inference_steps": 3,
        "extra_args": {"wait_for": str(flag)},
    }


def started(generation: kubediffusion.Generation) -> None:
    next(event for event in generation if event.kind == "started")


def check(output: kubediffusion.OmniRequestOutput) -> None:
    expected = testing.output_bytes(identifiers.derive_seed("e", output.request_id), 192)
    assert hashlib.sha256(output.data).digest() == hashlib.sha256(expected).digest()


def pid(engine: kubediffusion.DiffusionEngine, name: str) -> int:
    return next(worker.process_id for worker in engine.workers() if worker.name == name)


def test_killed_worker_is_started_again_and_its_work_done_again(tmp_path: pathlib.Path) -> None:
    told: queue.Queue[failures.WorkerFailure] = queue.Queue()
    flag = tmp_path / "go"
    with own_workers() as engine:
        engine.register_failure_callback(told.put)
        generation = engine.submit(slow("r", flag))
        started(generation)
        killed = pid(engine, generation.worker)
        os.kill(killed, signal.SIGKILL)
        failure = told.get(timeout=PATIENCE)
        assert (failure.worker, failure.is_replaced) == ("worker-0", True)
        flag.touch()
        output = generation.result(timeout=PATIENCE)
        check(output)
        assert output.attempt == 2
        assert pid(engine, "worker-0") != killed


def test_work_of_a_killed_worker_goes_on_beside_the_others(tmp_path: pathlib.Path) -> None:
    flag = tmp_path / "go"
    with own_workers(num_gpus=2) as engine:
        generations = [engine.submit(slow(name, flag)) for name in ("r1", "r2")]
        for generation in generations:
            started(generation)
        assert {generation.worker for generation in generations} == {"worker-0", "worker-1"}
        os.kill(pid(engine, "worker-0"), signal.SIGKILL)
        flag.touch()
        for generation in generations:
            check(generation.result(timeout=PATIENCE))


def test_next_engine_does_again_what_died_with_the_workers(tmp_path: pathlib.Path) -> None:
    flag = tmp_path / "go"
    with own_workers(state_dir=tmp_path / "state") as engine:
        started(engine.submit(slow("r", flag)))
    flag.touch()
    with own_workers(state_dir=tmp_path / "state") as engine:
        output = engine.generation("r").result(timeout=PATIENCE)
        check(output)
        assert output.attempt == 2


def test_workers_of_a_registry_outlive_engines(tmp_path: pathlib.Path) -> None:
    flag, registry = tmp_path / "go", tmp_path / "registry"
    config = {
        "engine_id": "e",
        "distributed_executor_backend": "external_launcher",
        "discovery": "registry",
        "registry": registry,
    }
    with served.a_process("--registry", str(registry), "--name", "w", "--log-level", "error"):
        with kubediffusion.DiffusionEngine(**config) as engine:
            started(engine.submit(slow("r", flag)))
            before = engine.workers()[0]
        flag.touch()
        with kubediffusion.DiffusionEngine(**config) as engine:
            check(engine.generation("r").result(timeout=PATIENCE))
            after = engine.workers()[0]
            assert (after.name, after.incarnation) == ("w", before.incarnation)


def test_dead_worker_of_a_registry_is_replaced_by_another(tmp_path: pathlib.Path) -> None:
    flag, registry = tmp_path / "go", tmp_path / "registry"
    flags = ("--registry", str(registry), "--log-level", "error")
    with (
        served.a_process(*flags, "--name", "a"),
        served.a_process(*flags, "--name", "b"),
        kubediffusion.DiffusionEngine(
            engine_id="e",
            distributed_executor_backend="external_launcher",
            registry=registry,
            takeover_seconds=1.0,
        ) as engine,
    ):
        generation = engine.submit(slow("r", flag))
        started(generation)
        first = generation.worker
        os.kill(pid(engine, first), signal.SIGKILL)
        flag.touch()
        output = generation.result(timeout=PATIENCE)
        check(output)
        assert (output.attempt, {output.worker, first}) == (2, {"a", "b"})

"""A system of worker and engine processes that is made to suffer, with a log of what came out."""

import contextlib
import dataclasses
import os
import pathlib
import random
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import grpc

import engine_program
import served
from kubediffusion_proto.v1 import worker_pb2

NAMES = ("a", "b", "c")
PATIENCE = 600.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long the suffering is; everything else follows from the seed."""

    seed: int
    generations: int
    kills: int


@dataclasses.dataclass
class Tally:
    """Whom it has hit."""

    workers: int = 0
    engines: int = 0


class Workers:
    """Worker processes under fixed names; one that was killed is started again at once.

    Args:
        model: The folder of their model.
        folder: For their sockets and their registry; its path must be short.
    """

    def __init__(self, model: pathlib.Path, folder: pathlib.Path) -> None:
        self.registry = folder / "registry"
        self._model = model
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a worker, and do not wait for it."""
        flags = [
            *("--name", name, "--model", str(self._model), "--threads", "1"),
            *("--listen", f"unix:{self._folder}/{name}.sock", "--log-level", "error"),
            *("--registry", str(self.registry), "--checkpoint-seconds", "0.05"),
        ]
        command = served.command(module="kubediffusion_worker")
        self._processes[name] = subprocess.Popen(
            [*command[: command.index("--registry")], *flags],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def kill(self, name: str) -> None:
        """Kill a worker and start it again."""
        process = self._processes[name]
        process.kill()
        process.wait()
        self.start(name)

    def end(self) -> None:
        """Kill all."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def serving(self) -> list[str]:
        """Return the names of those that take requests."""
        return [name for name in self._processes if self._is_serving(name)]

    def _is_serving(self, name: str) -> bool:
        with grpc.insecure_channel(f"unix:{self._folder}/{name}.sock") as channel:
            get_worker = channel.unary_unary(
                "/kubediffusion.v1.WorkerService/GetWorker",
                worker_pb2.GetWorkerRequest.SerializeToString,
                worker_pb2.GetWorkerResponse.FromString,
            )
            try:
                answer = get_worker(worker_pb2.GetWorkerRequest(), timeout=2.0)
            except grpc.RpcError:
                return False
        return bool(answer.worker.state == worker_pb2.WORKER_STATE_SERVING)

    def await_all(self) -> None:
        """Wait until each of them is known."""
        end = time.monotonic() + PATIENCE
        while len(self.serving()) < len(self._processes):
            assert time.monotonic() < end, "workers have not come up"
            time.sleep(0.1)


@contextlib.contextmanager
def workers(model: pathlib.Path, folder: pathlib.Path) -> Iterator[Workers]:
    """Start all workers; kill them at the end."""
    found = Workers(model, folder)
    for name in NAMES:
        found.start(name)
    try:
        found.await_all()
        yield found
    finally:
        found.end()


def requests(plan: Plan) -> list[dict[str, Any]]:
    """Return what is asked for: long and short, with different priorities."""
    chance = random.Random(plan.seed)
    return [
        {"num_inference_steps": chance.choice((8, 20, 60)), "priority": chance.choice((-1, 0, 5))}
        for _ in range(plan.generations)
    ]


def task(found: Workers, folder: pathlib.Path, plan: Plan) -> engine_program.Task:
    """Return what an engine process is to do."""
    folder.mkdir(exist_ok=True)
    return engine_program.Task(
        log=str(folder / "log"),
        config={
            "engine_id": folder.name,
            "state_dir": str(folder / "state"),
            "distributed_executor_backend": "external_launcher",
            "registry": str(found.registry),
        },
        request={"prompt": "a red circle", "height": 32, "width": 32},
        ids=[f"r{number}" for number in range(plan.generations)],
        each=requests(plan),
    )


def suffer(found: Workers, given: engine_program.Task, plan: Plan) -> Tally:
    """Let engines work, and kill engines and workers at random moments; then let them end."""
    chance = random.Random(plan.seed)
    tally = Tally()
    process = engine_program.start(given)
    try:
        while tally.workers + tally.engines < plan.kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.05, 1.5))
            victims = found.serving()
            if chance.random() < 0.5 and victims:
                found.kill(chance.choice(victims))
                tally.workers += 1
            else:
                process.kill()
                process.communicate()
                process = engine_program.start(given)
                tally.engines += 1
        _, complaint = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, complaint.decode()
    finally:
        process.kill()
    return tally

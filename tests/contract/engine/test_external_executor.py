import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import kubediffusion
import scripted_executor
import scripted_worker
from kubediffusion import _loop, errors
from kubediffusion._links import remote
from kubediffusion.executors import external, failures
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import registry

PATIENCE = scripted_executor.PATIENCE
config = scripted_executor.config
started = scripted_executor.started


class Service:
    """A scripted worker in this process, on the engines' loop."""

    def __init__(self, name: str, address: str = "127.0.0.1:0") -> None:
        self._loop = _loop.EngineLoop()
        self.service = self._loop.run(self._make(name))
        self._server, self.address = self._loop.run(scripted_worker.serve(self.service, address))

    async def _make(self, name: str) -> scripted_worker.ScriptedService:
        return scripted_worker.ScriptedService(name)

    def close(self) -> None:
        self._loop.run(self._server.stop(0))
        self._loop.close()

    def entry(self, **changes: Any) -> registry.Entry:
        facts = {
            "name": self.service.name,
            "address": self.address,
            "incarnation": self.service.incarnation,
            "pid": os.getpid(),
        }
        return registry.Entry(**{**facts, **changes})


@contextlib.contextmanager
def serving(*names: str) -> Iterator[list[Service]]:
    services = [Service(name) for name in names]
    try:
        yield services
    finally:
        for service in services:
            service.close()


def names(executor: external.ExternalDiffusionExecutor, **options: Any) -> Any:
    replies = executor.collective_rpc("identity", timeout=PATIENCE, **options)
    return replies["name"] if isinstance(replies, dict) else [reply["name"] for reply in replies]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "registry"


def test_static_discovery_connects_in_the_given_order() -> None:
    with serving("b", "a") as services:
        addresses = [service.address for service in services]
        executor = external.ExternalDiffusionExecutor(config(workers=addresses))
        with started(executor):
            assert names(executor) == ["b", "a"]
            assert names(executor, unique_reply_rank=0) == "b"
            executor.check_health()


def test_an_address_that_needs_tls_fails_the_start() -> None:
    executor = external.ExternalDiffusionExecutor(config(workers=["worker.example:1"]))
    with pytest.raises(errors.InvalidRequestError, match="TLS"), started(executor):
        pass


def test_registry_discovery_follows_workers_that_come_and_go(folder: pathlib.Path) -> None:
    with serving("one", "two") as (one, two):
        executor = external.ExternalDiffusionExecutor(config(registry=folder))
        with started(executor):
            with pytest.raises(errors.NoWorkerError):
                executor.check_health()
            registry.write(two.entry(), folder)
            scripted_executor.wait_for_links(executor, lambda links: len(links) == 1)
            registry.write(one.entry(), folder)
            links = scripted_executor.wait_for_links(executor, lambda links: len(links) == 2)
            assert names(executor) == ["one", "two"]
            registry.remove("one", folder)
            (left,) = scripted_executor.wait_for_links(executor, lambda links: len(links) == 1)
            assert left is links[1]
            assert not links[0].is_gone


def test_a_worker_that_is_restarted_elsewhere_gets_a_new_link(folder: pathlib.Path) -> None:
    with serving("w", "w") as (old, new):
        registry.write(old.entry(), folder)
        executor = external.ExternalDiffusionExecutor(config(registry=folder))
        with started(executor):
            (before,) = scripted_executor.wait_for_links(executor)
            registry.write(new.entry(), folder)
            (after,) = scripted_executor.wait_for_links(
                executor, lambda links: links[0] is not before
            )
            assert before.is_gone
            assert (after.name, after.address) == ("w", new.address)


def test_a_worker_that_is_restarted_in_place_keeps_its_link(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    address = f"unix:{tmp_path}/w.sock"
    old = Service("w", address)
    registry.write(old.entry(), folder)
    executor = external.ExternalDiffusionExecutor(config(registry=folder))
    with started(executor):
        (before,) = scripted_executor.wait_for_links(executor)
        sets: queue.SimpleQueue[scripted_executor.Links] = queue.SimpleQueue()

        async def follow() -> None:
            async for links in executor.links().changes():
                sets.put(links)

        loop = _loop.EngineLoop()
        following = loop.submit(follow())
        assert sets.get(timeout=PATIENCE) == (before,)
        old.close()
        new = Service("w", address)
        registry.write(new.entry(), folder)
        assert sets.get(timeout=PATIENCE) == (before,)
        executor.check_health()
        new.close()
        following.cancel()
        loop.close()


def test_the_last_good_set_is_kept_while_the_registry_fails(folder: pathlib.Path) -> None:
    with serving("w") as (worker,):
        registry.write(worker.entry(), folder)
        executor = external.ExternalDiffusionExecutor(config(registry=folder))
        with started(executor):
            scripted_executor.wait_for_links(executor)
            folder.chmod(0o777)
            assert names(executor) == ["w"]
            folder.chmod(0o700)
            registry.remove("w", folder)
            scripted_executor.wait_for_links(executor, lambda links: not links)


def test_an_external_worker_outlives_the_executor(tmp_path: pathlib.Path) -> None:
    address = f"unix:{tmp_path}/w.sock"
    program = str(pathlib.Path(scripted_worker.__file__))
    worker = subprocess.Popen(
        [sys.executable, program, "--name", "w", "--listen", address], stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    assert worker.stdout.readline()
    executors = [external.ExternalDiffusionExecutor(config(workers=[address])) for _ in "12"]
    lives = set()
    for executor in executors:
        with started(executor):
            lives.add(executor.collective_rpc("identity", unique_reply_rank=0)["incarnation"])
    assert worker.poll() is None
    assert len(lives) == 1
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    worker.stdout.close()


@pytest.mark.parametrize("kind", ["returns", "sets", "async", "links"])
def test_a_subclass_may_only_say_where_workers_are(kind: str) -> None:
    with serving("w") as (worker,):

        class Connecting(external.ExternalDiffusionExecutor):
            def _connect_to_workers(self) -> Any:
                match kind:
                    case "returns":
                        return [worker.address]
                    case "sets":
                        self.worker_handles = [worker.address]
                        return None
                    case "async":
                        return self._later()
                    case _:
                        return self._links()

            async def _later(self) -> list[str]:
                return [worker.address]

            async def _links(self) -> list[remote.RemoteLink]:
                return [remote.RemoteLink("w", worker.address)]

        executor = Connecting(config())
        with started(executor):
            assert names(executor) == ["w"]
            assert len(executor.worker_handles) == 1


def test_an_executor_without_handles_constructs_and_reports_unhealthy() -> None:
    class Empty(external.ExternalDiffusionExecutor):
        def _connect_to_workers(self) -> None:
            pass

    executor = Empty(config())
    with started(executor):
        assert executor.worker_handles == []
        with pytest.raises(errors.NoWorkerError):
            executor.check_health()
        with pytest.raises(errors.NoWorkerError):
            executor.collective_rpc("identity")


class AllHooks(external.ExternalDiffusionExecutor):
    """Speaks to its workers in a way of its own, which is a list of calls here."""

    calls: list[tuple[str, Any]]
    health: Any = None

    def _connect_to_workers(self) -> None:
        self.calls = [("connect", None)]

    def _forward_rpc_to_workers(
        self, method: str, timeout: float | None, args: Any, kwargs: Any, unique_reply_rank: Any
    ) -> Any:
        self.calls.append((method, (timeout, args, kwargs, unique_reply_rank)))
        if method == "fail":
            raise LookupError("no such thing")
        if method == "hang":
            threading.Event().wait(5.0 if timeout is None else 0.5)
        return f"{method} done"

    def _check_worker_health(self) -> Any:
        if isinstance(self.health, Exception):
            raise self.health
        return self.health

    def _disconnect_from_workers(self) -> None:
        self.calls.append(("disconnect", None))


def test_a_subclass_may_override_every_hook() -> None:
    executor = AllHooks(config())
    with started(executor):
        executor.check_health()
        assert executor.collective_rpc("m", 9.0, (1,), {"a": 2}, 0) == "m done"
        with pytest.raises(LookupError):
            executor.collective_rpc("fail")
        with pytest.raises(TimeoutError):
            executor.collective_rpc("hang", timeout=0.05)
    executor.shutdown()
    assert executor.calls == [
        ("connect", None),
        ("m", (9.0, (1,), {"a": 2}, 0)),
        ("fail", (None, (), {}, None)),
        ("hang", (0.05, (), {}, None)),
        ("disconnect", None),
    ]


@pytest.mark.parametrize("health", [False, ValueError("bad"), errors.WorkerFailedError("bad")])
def test_an_unhealthy_hook_is_an_error(health: object) -> None:
    executor = AllHooks(config())
    executor.health = health
    with started(executor), pytest.raises(errors.WorkerFailedError):
        executor.check_health()


def test_async_hooks_run_on_the_loop() -> None:
    class Async(external.ExternalDiffusionExecutor):
        ended = False

        async def _connect_to_workers(self) -> list[object]:
            return [object()]

        async def _forward_rpc_to_workers(
            self, method: str, timeout: Any, args: Any, kwargs: Any, unique_reply_rank: Any
        ) -> str:
            return threading.current_thread().name

        async def _check_worker_health(self) -> bool:
            return True

        async def _disconnect_from_workers(self) -> None:
            self.ended = True

    executor = Async(config())
    with started(executor):
        assert executor.collective_rpc("where") == "kubediffusion-loop"
        executor.check_health()
    assert executor.ended


def test_generations_go_through_the_forward_hook() -> None:
    executor = AllHooks(config())
    with started(executor):
        (link,) = scripted_executor.wait_for_links(executor)
        request = worker_pb2.SubmitGenerationRequest(
            caller=worker_pb2.Caller(engine_id="e"),
            request_id="r",
            spec=worker_pb2.GenerationSpec(prompt="a cat"),
        )

        async def generate() -> str:
            await link.submit_generation(request)
            watch = worker_pb2.WatchGenerationsRequest(
                caller=request.caller, request_ids=["r"], until_terminal=True
            )
            return [
                event.WhichOneof("event") or ""
                async for response in link.watch_generations(watch)
                for event in response.events
            ][-1]

        loop = _loop.EngineLoop()
        # The hook answers with a text, which is no picture.
        assert loop.run(generate(), PATIENCE) == "failed"
        loop.close()
        method, (timeout, (requests,), kwargs, rank) = executor.calls[1]
        assert (method, timeout, kwargs, rank) == ("generate", None, {}, 0)
        assert requests[0].prompt == "a cat"


def test_handles_that_nobody_understands_fail_the_start() -> None:
    class Strange(external.ExternalDiffusionExecutor):
        def _connect_to_workers(self) -> list[object]:
            return [object()]

    with pytest.raises(TypeError, match="worker_handles must be"), started(Strange(config())):
        pass


def test_a_hook_that_raises_fails_the_start_and_lets_go() -> None:
    class Failing(AllHooks):
        def _connect_to_workers(self) -> None:
            super()._connect_to_workers()
            raise ConnectionError("nobody is there")

    executor = Failing(config())
    with pytest.raises(ConnectionError), started(executor):
        pass
    assert executor.calls[-1] == ("disconnect", None)


def test_actors_get_the_ranks_that_they_claim() -> None:
    class Actor:
        def __init__(self, rank: int) -> None:
            self.rank = rank

        def initialize(self) -> dict[str, str]:
            return {"status": "ready"}

        def execute_rpc(self, method: str, args: Any, kwargs: Any) -> Any:
            return (self.rank, method, args, kwargs)

        async def get_rank(self) -> int:
            return self.rank

    class Actors(external.ExternalDiffusionExecutor):
        def _connect_to_workers(self) -> list[Actor]:
            return [Actor(1), Actor(0)]

    executor = Actors(config())
    with started(executor):
        assert executor.collective_rpc("m", args=(7,)) == [
            (0, "m", (7,), {}),
            (1, "m", (7,), {}),
        ]
        assert executor.collective_rpc("m", unique_reply_rank=1)[0] == 1
        executor.check_health()


def test_an_actor_that_cannot_initialize_is_unhealthy() -> None:
    class Broken:
        def initialize(self) -> dict[str, str]:
            return {"status": "error", "error": "no device"}

        def generate(self, requests: object) -> None:
            raise AssertionError("must not be called")

    class Actors(external.ExternalDiffusionExecutor):
        def _connect_to_workers(self) -> list[Broken]:
            return [Broken()]

    executor = Actors(config())
    with started(executor), pytest.raises(errors.WorkerFailedError):
        executor.check_health()


def test_a_disconnect_hook_that_fails_does_not_stop_the_shutdown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(AllHooks):
        def _disconnect_from_workers(self) -> None:
            raise OSError("already gone")

    with started(Failing(config())):
        pass
    assert "_disconnect_from_workers() failed" in caplog.text


@pytest.fixture
def told() -> queue.SimpleQueue[failures.WorkerFailure]:
    return queue.SimpleQueue()


def test_an_engine_tells_of_an_external_worker_that_is_out_of_reach_for_too_long(
    told: queue.SimpleQueue[failures.WorkerFailure],
) -> None:
    worker = Service("w")
    with kubediffusion.DiffusionEngine(external_config(workers=[worker.address])) as engine:
        engine.register_failure_callback(told.put)
        worker.close()
        failure = told.get(timeout=PATIENCE)
    assert failure.incarnation == worker.service.incarnation
    assert failure.reason == "was out of reach for 0.05 s"
    assert not failure.is_replaced


def test_an_engine_tells_of_an_external_worker_that_another_one_has_replaced(
    folder: pathlib.Path, told: queue.SimpleQueue[failures.WorkerFailure]
) -> None:
    old = Service("w")
    registry.write(old.entry(), folder)
    settings = external_config(registry=folder, takeover_seconds=PATIENCE)
    with serving("w") as (new,), kubediffusion.DiffusionEngine(settings) as engine:
        engine.register_failure_callback(told.put)
        registry.write(new.entry(), folder)
        failure = told.get(timeout=PATIENCE)
        old.close()
    assert (failure.worker, failure.incarnation) == ("w", old.service.incarnation)
    assert failure.reason == "is gone"


def test_an_engine_tells_of_an_external_worker_that_was_started_again(
    tmp_path: pathlib.Path, told: queue.SimpleQueue[failures.WorkerFailure]
) -> None:
    address = f"unix:{tmp_path}/w.sock"
    old = Service("w", address)
    settings = external_config(workers=[address], takeover_seconds=PATIENCE)
    with kubediffusion.DiffusionEngine(settings) as engine:
        engine.register_failure_callback(told.put)
        old.close()
        new = Service("w", address)
        failure = told.get(timeout=PATIENCE)
        new.close()
    assert (failure.incarnation, failure.reason) == (
        old.service.incarnation,
        "was started again",
    )


def test_an_engine_tells_nothing_of_an_external_worker_that_never_was(
    tmp_path: pathlib.Path, told: queue.SimpleQueue[failures.WorkerFailure]
) -> None:
    worker = Service("w")
    addresses = [f"unix:{tmp_path}/nobody.sock", worker.address]
    with kubediffusion.DiffusionEngine(external_config(workers=addresses)) as engine:
        engine.register_failure_callback(told.put)
        worker.close()
        assert told.get(timeout=PATIENCE).incarnation == worker.service.incarnation
    assert told.empty()


def external_config(**options: Any) -> kubediffusion.OmniDiffusionConfig:
    backend = "external_launcher"
    return config(
        "", distributed_executor_backend=backend, **{"takeover_seconds": 0.05, **options}
    )

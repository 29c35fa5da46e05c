"""The allow-list of `CallMethod`: what `collective_rpc` may do on a worker.

Nothing is looked up by name on any object but this table.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, validation, values
from kubediffusion_worker import identity, memory, runs, vitals

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Host(Protocol):
    """What methods need of the runtime."""

    @property
    def loaded(self) -> runs.LoadedPipeline:
        """The pipeline; raises WorkerStartingError before it is loaded."""
        ...

    def facts(self) -> vitals.Facts:
        """What probes are answered from."""
        ...

    def describe(self) -> worker_pb2.Worker:
        """What GetWorker answers."""
        ...

    def on_compute_thread(self, function: Callable[[], Any]) -> Awaitable[Any]:
        """Call a function on the compute thread, after the jobs that it has."""
        ...

    async def add_adapter(self, name: str, source: str, weight_name: str) -> runs.LoadedAdapter:
        """Load a LoRA adapter."""
        ...

    async def remove_adapter(self, name: str) -> bool:
        """Unload a LoRA adapter."""
        ...


@dataclass(frozen=True, slots=True)
class _Method:
    function: Callable[..., Awaitable[object]]
    is_read_only: bool


class Methods:
    """The methods of one worker."""

    def __init__(self, host: Host, monotonic: Callable[[], float]) -> None:
        self._host = host
        self._monotonic = monotonic
        self._table = {
            "ping": _Method(self._ping, True),
            "describe": _Method(self._describe, True),
            "health": _Method(self._health, True),
            "get_rank": _Method(self._get_rank, True),
            "memory_stats": _Method(self._memory_stats, True),
            "list_adapters": _Method(self._list_adapters, True),
            "load_adapter": _Method(self._load_adapter, False),
            "unload_adapter": _Method(self._unload_adapter, False),
            "empty_cache": _Method(self._empty_cache, False),
            "self_test": _Method(self._self_test, False),
            "set_log_level": _Method(self._set_log_level, False),
        }

    @property
    def names(self) -> Sequence[str]:
        """What may be called."""
        return sorted(self._table)

    async def call(
        self, request: worker_pb2.CallMethodRequest, role: identity.Role
    ) -> worker_pb2.Value:
        """Call a method.

        Raises:
            MethodNotAllowedError: There is no such method, or the caller may only read.
            InvalidRequestError: The arguments do not fit.
            KubediffusionError: What the method itself refuses.
        """
        method = self._table.get(request.method)
        if method is None:
            near = validation.nearest(request.method, self._table)
            raise errors.MethodNotAllowedError(
                f"no method {request.method[:128]!r} may be called; "
                f"methods are {', '.join(near or self.names)}",
                metadata={"methods": ",".join(self.names)},
            )
        if role is identity.Role.OBSERVER and not method.is_read_only:
            raise errors.MethodNotAllowedError(
                f"an observer may not call {request.method!r}, which changes the worker"
            )
        args = [
            values.decode(value, field=f"args[{index}]")
            for index, value in enumerate(request.args)
        ]
        kwargs = {
            name: values.decode(value, field=f"kwargs.{name}")
            for name, value in request.kwargs.items()
        }
        _check_arguments(request.method, method.function, args, kwargs)
        return values.encode(await method.function(*args, **kwargs))

    async def _ping(self) -> str:
        return "pong"

    async def _describe(self) -> dict[str, object]:
        worker = self._host.describe()
        state = worker_pb2.WorkerState.Name(worker.state).removeprefix("WORKER_STATE_")
        return {
            "name": worker.name,
            "incarnation": worker.incarnation,
            "process_id": worker.process_id,
            "version": worker.version,
            "state": state,
            "device": worker.device,
            "model": worker.model.id,
            "pipeline": worker.model.pipeline,
            "dtype": worker.model.dtype,
            "fingerprint": worker.fingerprint,
            "running": worker.load.running,
            "queued": worker.load.queued,
        }

    async def _health(self) -> dict[str, object]:
        facts, now = self._host.facts(), self._monotonic()
        live, ready = vitals.is_live(facts, now), vitals.is_ready(facts)
        return {
            "is_live": live.is_ok,
            "is_ready": ready.is_ok,
            "reason": ready.reason if live.is_ok else live.reason,
        }

    async def _get_rank(self) -> int:
        return 0  # Groups of several processes are not built yet.

    async def _memory_stats(self) -> dict[str, int]:
        _ = self._host.loaded  # Refuses before torch can be asked.
        return dict(memory.measure())

    async def _list_adapters(self) -> list[dict[str, str]]:
        return [
            {"name": each.name, "sha256": each.sha256}
            for each in self._host.loaded.adapters.resident
        ]

    async def _load_adapter(self, name: str, source: str, weight_name: str = "") -> dict[str, str]:
        _check_texts(name=name, source=source, weight_name=weight_name)
        adapter = await self._host.add_adapter(name, source, weight_name)
        return {"name": adapter.name, "sha256": adapter.sha256}

    async def _unload_adapter(self, name: str) -> bool:
        _check_texts(name=name)
        return await self._host.remove_adapter(name)

    async def _empty_cache(self) -> None:
        _ = self._host.loaded
        await self._host.on_compute_thread(memory.empty_cache)

    async def _self_test(self) -> bool:
        await self._host.on_compute_thread(self._host.loaded.self_test)
        return True

    async def _set_log_level(self, level: str) -> str:
        if level not in LEVELS:
            raise errors.InvalidRequestError.at(
                "level", f"must be one of {', '.join(LEVELS)}; found {level!r:.40}"
            )
        logging.getLogger("kubediffusion_worker").setLevel(level)
        return level


def _check_arguments(
    name: str, function: Callable[..., object], args: list[object], kwargs: dict[str, object]
) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise errors.InvalidRequestError.at(
            "args", f"must fit {name}{signature}; {error}"
        ) from error


def _check_texts(**arguments: object) -> None:
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise errors.InvalidRequestError.at(
                name, f"must be a text; found {type(value).__name__}"
            )

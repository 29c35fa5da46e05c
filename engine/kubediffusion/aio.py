"""The asynchronous engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from kubediffusion import _assembly, _config, _generation

if TYPE_CHECKING:
    import types

    from kubediffusion import _interventions, _output, _request, _workers
    from kubediffusion.executors import abstract, failures

    Given = _request.OmniDiffusionRequest | Mapping[str, Any] | str
    # Any: the fields of a request


class AsyncDiffusionEngine:
    """Is `DiffusionEngine` for asynchronous code, on whatever event loop calls it.

    Building it checks the configuration; the first call, or `async with`, starts it, which
    for workers of its own means to start them and load the model.

    Args:
        config: What runs where; None: `OmniDiffusionConfig(**options)`.
        options: Fields of the configuration, in place of `config`.

    Raises:
        ConfigError: A value of the configuration makes no sense.
        ValueError: There is no such executor backend.
    """

    def __init__(
        self,
        config: _config.OmniDiffusionConfig | None = None,
        **options: Any,  # Any: see `OmniDiffusionConfig`
    ) -> None:
        self._assembly = _assembly.Assembly(_assembly.given_config(config, options))

    async def __aenter__(self) -> AsyncDiffusionEngine:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def config(self) -> _config.OmniDiffusionConfig:
        """The configuration it was built from."""
        return self._assembly.config

    @property
    def engine_id(self) -> str:
        """Owner of the generations; the next engine needs the same to find them."""
        return self._assembly.settings.engine_id

    @property
    def executor(self) -> abstract.DiffusionExecutor:
        """How it reaches workers.

        Raises:
            EngineClosedError: The engine has not started, or was closed.
        """
        return self._assembly.executor

    async def start(self) -> None:
        """Open the journal and reach the workers. Idempotent.

        Raises:
            JournalError: The state folder cannot be used, or another process uses it.
            KubediffusionError: The workers cannot be started; the message is one line.
        """
        if not self._assembly.is_started:
            await asyncio.to_thread(self._assembly.start)

    @overload
    async def step(  # type: ignore[overload-overlap]  # a text is one prompt
        self, requests: Given, *, timeout: float | None = ...
    ) -> _output.OmniRequestOutput: ...

    @overload
    async def step(
        self, requests: Sequence[Given], *, timeout: float | None = ...
    ) -> list[_output.OmniRequestOutput]: ...

    async def step(
        self, requests: Given | Sequence[Given], *, timeout: float | None = None
    ) -> _output.OmniRequestOutput | list[_output.OmniRequestOutput]:
        """Run requests to their ends and return their outputs, in order.

        See `DiffusionEngine.step`; a cancelled task counts as an interrupt.
        """
        await self.start()
        is_many = isinstance(requests, Sequence) and not isinstance(requests, str)
        given: Sequence[Given] = requests if is_many else [requests]  # type: ignore[assignment,list-item]  # mypy does not narrow by a name
        records = await self._assembly.submit_async(given)
        try:
            outputs = await self._assembly.outputs_async(records, timeout)
        except asyncio.CancelledError:
            self._assembly.abandon(records)
            raise
        return outputs if is_many else outputs[0]

    async def submit(self, request: Given) -> _generation.AsyncGeneration:
        """Take a request and return at once; it is in the journal by then.

        Raises:
            InvalidRequestError: It is wrong; nothing was sent.
            RequestConflictError: Its id stands for another request.
            QueueFullError: There are `max_pending` unfinished ones.
            JournalError: It cannot be written down.
        """
        await self.start()
        (record,) = await self._assembly.submit_async([request])
        return _generation.AsyncGeneration(record, self._assembly)

    async def generation(self, request_id: str) -> _generation.AsyncGeneration:
        """Return a generation of this engine or of its predecessor with the same id.

        Raises:
            GenerationNotFoundError: Neither the journal nor a worker knows it.
        """
        await self.start()
        record = await self._assembly.run_async(self._assembly.desk.find(request_id))
        return _generation.AsyncGeneration(record, self._assembly)

    async def generations(self) -> list[_generation.AsyncGeneration]:
        """Return all unfinished generations and the newest finished ones."""
        await self.start()
        records = await self._assembly.run_async(self._assembly.desk.known())
        return [_generation.AsyncGeneration(record, self._assembly) for record in records]

    async def pause(self, request_id: str) -> None:
        """Park a generation after the step under way; the event "parked" confirms it.

        Raises:
            GenerationNotFoundError: Nobody knows it.
            NotResumableError: It has ended, or cannot be parked.
        """
        await (await self.generation(request_id)).pause()

    async def resume(self, request_id: str) -> None:
        """Let a parked generation go on; the event "unpaused" confirms it.

        Raises:
            GenerationNotFoundError: Nobody knows it.
            NotResumableError: It has ended.
        """
        await (await self.generation(request_id)).resume()

    async def checkpoint(self, request_id: str) -> _interventions.CheckpointInfo:
        """Take a checkpoint of a generation after the step under way, and wait for it.

        Raises:
            GenerationNotFoundError: Nobody knows it.
            NotResumableError: It has ended, or cannot be saved in its state.
        """
        return await (await self.generation(request_id)).checkpoint()

    async def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: Sequence[Any] = (),  # Any: whatever travels as a value
        kwargs: Mapping[str, Any] | None = None,
        unique_reply_rank: int | None = None,
    ) -> Any:
        """Call a method of the workers' allow-list on every worker.

        See `DiffusionEngine.collective_rpc`.
        """
        await self.start()
        call = self.executor.collective_rpc
        return await asyncio.to_thread(call, method, timeout, args, kwargs, unique_reply_rank)

    async def check_health(self) -> None:
        """Return if every worker would serve a request sent now.

        Raises:
            KubediffusionError: Names every worker that would not, and why.
        """
        await self.start()
        self._assembly.check_running()
        await asyncio.to_thread(self.executor.check_health)

    async def workers(self) -> list[_workers.WorkerInfo]:
        """Describe the workers that are connected, or were."""
        await self.start()
        return await self._assembly.run_async(self._assembly.desk.workers())

    async def drain(
        self,
        worker: str,
        *,
        policy: str = "finish-then-checkpoint",
        budget: float | None = None,
    ) -> str:
        """Let a worker take no new work and empty itself.

        Returns at once; `workers()` tells when it is "drained". What it had goes on
        elsewhere. The process stays until `undrain` or its end.

        Args:
            worker: Its name.
            policy: "finish": what runs may take its time. "checkpoint": everything is handed
                over after the step under way. "finish-then-checkpoint": what is done within
                the budget is finished, the rest handed over.
            budget: In seconds; None: the worker's own.

        Returns:
            The worker's state, "draining" or "drained".

        Raises:
            InvalidRequestError: There is no such worker or policy.
            KubediffusionError: The worker refused, or cannot be reached.
        """
        await self.start()
        return await self._assembly.run_async(self._assembly.desk.drain(worker, policy, budget))

    async def undrain(self, worker: str) -> str:
        """Let a drained worker take work again; return its state.

        Raises:
            InvalidRequestError: There is no such worker.
            KubediffusionError: The worker refused, or cannot be reached.
        """
        await self.start()
        return await self._assembly.run_async(self._assembly.desk.undrain(worker))

    async def register_failure_callback(self, callback: failures.FailureCallback) -> None:
        """Have a function called, on a thread of its own, for every failure of a worker."""
        await self.start()
        self.executor.register_failure_callback(callback)

    async def load_adapter(self, name: str, source: str, weight_name: str = "") -> None:
        """Load a LoRA adapter on every worker, also on those that come later.

        Args:
            name: What requests call it.
            source: A folder, a file or a hub id, as the workers see it.
            weight_name: The file within a folder or hub id; empty: diffusers' default.

        Raises:
            KubediffusionError: Of the first worker that could not.
        """
        await self.start()
        desk = self._assembly.desk
        await self._assembly.run_async(desk.load_adapter(name, source, weight_name))

    async def unload_adapter(self, name: str) -> bool:
        """Remove a LoRA adapter from every worker; return whether any had it.

        Raises:
            KubediffusionError: Of the first worker that could not.
        """
        await self.start()
        return await self._assembly.run_async(self._assembly.desk.unload_adapter(name))

    async def close(self) -> None:
        """End the engine, in a few seconds at most. Idempotent.

        Workers of its own end with it; workers that others manage keep what they have.
        """
        await asyncio.to_thread(self._assembly.close)

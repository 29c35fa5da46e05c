"""The synchronous engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from kubediffusion import _assembly, _config, _generation

if TYPE_CHECKING:
    import types

    from kubediffusion import _interventions, _output, _request, _workers
    from kubediffusion.executors import abstract, failures

    Given = _request.OmniDiffusionRequest | Mapping[str, Any] | str
    # Any: the fields of a request


class DiffusionEngine:
    """Drives diffusion workers; a restarted one finds the generations of its predecessor.

    Building it opens the journal and reaches the workers, which for workers of its own means
    to start them and load the model. All methods may be called from any thread. Use it as a
    context manager, or call `close`.

    Args:
        config: What runs where; None: `OmniDiffusionConfig(**options)`.
        options: Fields of the configuration, in place of `config`.

    Raises:
        ConfigError: A value of the configuration makes no sense.
        ValueError: There is no such executor backend.
        JournalError: The state folder cannot be used, or another process uses it.
        KubediffusionError: The workers cannot be started; the message is one line.
    """

    def __init__(
        self,
        config: _config.OmniDiffusionConfig | None = None,
        **options: Any,  # Any: see `OmniDiffusionConfig`
    ) -> None:
        self._assembly = _assembly.Assembly(_assembly.given_config(config, options))
        self._assembly.start()
        self._assembly.route_requests(self.step)

    def __enter__(self) -> DiffusionEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()

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
        """How it reaches workers."""
        return self._assembly.executor

    @overload
    def step(  # type: ignore[overload-overlap]  # a text is one prompt
        self, requests: Given, *, timeout: float | None = ...
    ) -> _output.OmniRequestOutput: ...

    @overload
    def step(
        self, requests: Sequence[Given], *, timeout: float | None = ...
    ) -> list[_output.OmniRequestOutput]: ...

    def step(
        self, requests: Given | Sequence[Given], *, timeout: float | None = None
    ) -> _output.OmniRequestOutput | list[_output.OmniRequestOutput]:
        """Run requests to their ends and return their outputs, in order.

        A request that fails does not stop the others: its output has an `error`, which is
        raised where its images are asked for. Interrupted, those without an id of their own
        are cancelled; those with one go on, because it finds them again.

        Args:
            requests: One (request, its fields as a mapping, or its prompt) or several.
            timeout: In seconds; None: `step_budget` of the configuration.

        Returns:
            One output for one request, a list for a list.

        Raises:
            InvalidRequestError: A request is wrong; none was sent.
            ResultTimeoutError: Not all ended in time; they go on.
            KubediffusionError: They cannot be taken.
        """
        given = _as_list(requests)
        records = self._assembly.submit(given)
        try:
            outputs = self._assembly.outputs(records, timeout)
        except KeyboardInterrupt:
            self._assembly.abandon(records)
            raise
        return outputs[0] if given is not requests else outputs

    def submit(self, request: Given) -> _generation.Generation:
        """Take a request and return at once; it is in the journal by then.

        The same id and content again is the same generation.

        Raises:
            InvalidRequestError: It is wrong; nothing was sent.
            RequestConflictError: Its id stands for another request.
            QueueFullError: There are `max_pending` unfinished ones.
            JournalError: It cannot be written down.
        """
        (record,) = self._assembly.submit([request])
        return _generation.Generation(record, self._assembly)

    def generation(self, request_id: str) -> _generation.Generation:
        """Return a generation of this engine or of its predecessor with the same id.

        Raises:
            GenerationNotFoundError: Neither the journal nor a worker knows it.
        """
        record = self._assembly.run(self._assembly.desk.find(request_id))
        return _generation.Generation(record, self._assembly)

    def generations(self) -> list[_generation.Generation]:
        """Return all unfinished generations and the newest finished ones."""
        records = self._assembly.run(self._assembly.desk.known())
        return [_generation.Generation(record, self._assembly) for record in records]

    def pause(self, request_id: str) -> None:
        """Park a generation after the step under way; the event "parked" confirms it.

        Raises:
            GenerationNotFoundError: Nobody knows it.
            NotResumableError: It has ended, or cannot be parked.
        """
        self.generation(request_id).pause()

    def resume(self, request_id: str) -> None:
        """Let a parked generation go on; the event "unpaused" confirms it.

        Raises:
            GenerationNotFoundError: Nobody knows it.
            NotResumableError: It has ended.
        """
        self.generation(request_id).resume()

    def checkpoint(self, request_id: str) -> _interventions.CheckpointInfo:
        """Take a checkpoint of a generation after the step under way, and wait for it.

        Raises:
            GenerationNotFoundError: Nobody knows it.
            NotResumableError: It has ended, or cannot be saved in its state.
        """
        return self.generation(request_id).checkpoint()

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: Sequence[Any] = (),  # Any: whatever travels as a value
        kwargs: Mapping[str, Any] | None = None,
        unique_reply_rank: int | None = None,
    ) -> Any:
        """Call a method of the workers' allow-list on every worker.

        Args:
            method: Its name.
            timeout: In seconds, for all workers together.
            args: Positional arguments.
            kwargs: Keyword arguments.
            unique_reply_rank: Call and answer for this rank only; 0 is a rank.

        Returns:
            One value for each rank, in order, or the one rank's value.

        Raises:
            KubediffusionError: A worker refused, failed, or did not answer in time.
        """
        return self.executor.collective_rpc(method, timeout, args, kwargs, unique_reply_rank)

    def check_health(self) -> None:
        """Return if every worker would serve a request sent now.

        Raises:
            KubediffusionError: Names every worker that would not, and why.
        """
        self._assembly.check_running()
        self.executor.check_health()

    def workers(self) -> list[_workers.WorkerInfo]:
        """Describe the workers that are connected, or were."""
        return self._assembly.run(self._assembly.desk.workers())

    def drain(
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
        return self._assembly.run(self._assembly.desk.drain(worker, policy, budget))

    def undrain(self, worker: str) -> str:
        """Let a drained worker take work again; return its state.

        Raises:
            InvalidRequestError: There is no such worker.
            KubediffusionError: The worker refused, or cannot be reached.
        """
        return self._assembly.run(self._assembly.desk.undrain(worker))

    def register_failure_callback(self, callback: failures.FailureCallback) -> None:
        """Have a function called, on a thread of its own, for every failure of a worker."""
        self.executor.register_failure_callback(callback)

    def load_adapter(self, name: str, source: str, weight_name: str = "") -> None:
        """Load a LoRA adapter on every worker, also on those that come later.

        Args:
            name: What requests call it.
            source: A folder, a file or a hub id, as the workers see it.
            weight_name: The file within a folder or hub id; empty: diffusers' default.

        Raises:
            KubediffusionError: Of the first worker that could not.
        """
        desk = self._assembly.desk
        self._assembly.run(desk.load_adapter(name, source, weight_name))

    def unload_adapter(self, name: str) -> bool:
        """Remove a LoRA adapter from every worker; return whether any had it.

        Raises:
            KubediffusionError: Of the first worker that could not.
        """
        return self._assembly.run(self._assembly.desk.unload_adapter(name))

    def close(self) -> None:
        """End the engine, in a few seconds at most. Idempotent.

        Workers of its own end with it; workers that others manage keep what they have.
        """
        self._assembly.close()


def _as_list(requests: Given | Sequence[Given]) -> Sequence[Given]:
    if isinstance(requests, Sequence) and not isinstance(requests, str):
        return requests
    return [requests]

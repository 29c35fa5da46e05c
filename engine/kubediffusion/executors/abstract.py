"""The abstract executor: the engine's strategy for reaching workers."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion.executors import failures

if TYPE_CHECKING:
    from kubediffusion import _config, _loop
    from kubediffusion._links import protocol

DEFAULT_BACKEND = "mp"


class DiffusionExecutor(abc.ABC):
    """Reaches workers on behalf of an engine.

    A subclass either answers `add_requests` itself, or yields links (`links`), in which
    case the engine places, watches, retries and fetches on its own. The constructor calls
    `_init_executor`; the engine then calls `start` once, and `shutdown` at its end.

    Args:
        config: The engine's configuration, also available as `self.config` and, for code
            written against vLLM-Omni, as `self.od_config`.
    """

    def __init__(self, config: _config.OmniDiffusionConfig) -> None:
        self.config = config
        self._failures = failures.FailureCallbacks()
        self._foreign_links: protocol.LinkSource | None = None
        self._init_executor()

    @property
    def od_config(self) -> _config.OmniDiffusionConfig:
        """The configuration, under vLLM-Omni's name."""
        return self.config

    @abc.abstractmethod
    def _init_executor(self) -> None:
        """Prepare; called at the end of the constructor."""

    def start(self, loop: _loop.EngineLoop) -> None:  # noqa: B027  (optional, not abstract)
        """Reach the workers, as far as they have to be up before the engine is.

        Blocks; never called on the loop's own thread. Idempotent. The default does
        nothing.

        Args:
            loop: The engine's; stays open until after `shutdown`.

        Raises:
            KubediffusionError: The workers cannot be started; the message is one line.
        """

    def links(self) -> protocol.LinkSource:
        """Return the source of links to the workers.

        The default has one link that runs every generation through `add_requests`, one
        after the other, without progress.
        """
        from kubediffusion.executors import foreign  # Late: most executors yield links.

        if self._foreign_links is None:
            self._foreign_links = foreign.ForeignLinks(self)
        return self._foreign_links

    @abc.abstractmethod
    def add_requests(self, requests: Sequence[Any]) -> Any:  # Any: requests and outputs.
        """Run requests to their end and return their outputs, in order.

        Args:
            requests: `OmniDiffusionRequest` objects.

        Returns:
            `OmniRequestOutput` objects; one alone may stand for a list of one.
        """

    @abc.abstractmethod
    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: Sequence[Any] = (),  # Any: whatever `Value` can carry.
        kwargs: Mapping[str, Any] | None = None,
        unique_reply_rank: int | None = None,
    ) -> Any:
        """Call a method by name on every worker.

        Args:
            method: Name of a method on the worker's allow-list.
            timeout: In seconds, for all workers together; None stands for a default.
            args: Positional arguments.
            kwargs: Keyword arguments.
            unique_reply_rank: Call and answer for this rank only; 0 is a rank.

        Returns:
            One value for each rank, in order, or the one rank's value.

        Raises:
            TimeoutError: A worker did not answer in time.
            KubediffusionError: A worker refused or failed; the first by rank.
        """

    @abc.abstractmethod
    def check_health(self) -> None:
        """Return if every worker would serve a request sent now.

        Raises:
            KubediffusionError: Names every worker that would not, and why.
        """

    @abc.abstractmethod
    def shutdown(self) -> None:
        """Let go of the workers, ending those that belong to the engine.

        Bounded in time and idempotent; takes a running `start` along.
        """

    def register_failure_callback(self, callback: failures.FailureCallback) -> None:
        """Have a function called once for every failure of a worker.

        It is called on a thread of its own, so it may call back into the engine; what it
        raises is logged.

        Args:
            callback: Gets a `WorkerFailure` if it accepts an argument, else nothing.
        """
        self._failures.register(callback)

    def report_failure(self, failure: failures.WorkerFailure) -> None:
        """Tell the callbacks of a failure, once for each life of a worker."""
        self._failures.report(failure)

    def take_loss(self, failure: failures.WorkerFailure) -> None:  # noqa: B027  (see start)
        """Take note that the engine has lost a worker, from the engine's loop.

        The default leaves it at that: who starts workers knows better when and why they end.
        """

    @staticmethod
    def get_class(config: _config.OmniDiffusionConfig) -> type[DiffusionExecutor]:
        """Return the executor class that `config.distributed_executor_backend` names.

        Raises:
            ValueError: The backend is unknown or cannot be imported.
            TypeError: The backend is a class, but not an executor.
        """
        from kubediffusion.executors import selection  # Late: it knows the subclasses.

        return selection.executor_class(config.distributed_executor_backend)

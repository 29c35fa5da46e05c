"""Puts an engine together from its parts, and takes it apart again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from kubediffusion import _loop, errors
from kubediffusion.executors import abstract, foreign, linked

if TYPE_CHECKING:
    from kubediffusion import (
        _checkpoints,
        _config,
        _core,
        _desk,
        _journal,
        _orders,
        _output,
        _record,
        _results,
        _settings,
    )
    from kubediffusion._links import protocol

T = TypeVar("T")


class Assembly:
    """All parts of one engine. Thread-safe.

    Args:
        config: Is checked and frozen here; the executor keeps the original.

    Raises:
        ConfigError: A value makes no sense.
        ValueError: There is no such executor backend.
    """

    def __init__(self, config: _config.OmniDiffusionConfig) -> None:
        self.config = config
        self.settings: _settings.EngineSettings = config.freeze()
        self._executor_class = abstract.DiffusionExecutor.get_class(config)
        self._executor: abstract.DiffusionExecutor | None = None
        self._starting: abstract.DiffusionExecutor | None = None
        self._loop: _loop.EngineLoop | None = None
        self._core: _core.Core | None = None
        self._desk: _desk.Desk | None = None
        self._cleanup = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def executor(self) -> abstract.DiffusionExecutor:
        """The executor.

        Raises:
            EngineClosedError: The engine has not started, or was closed.
        """
        if self._executor is None:
            raise self._unusable()
        return self._executor

    @property
    def desk(self) -> _desk.Desk:
        """Answers users; its coroutines belong on the loop.

        Raises:
            EngineClosedError: The engine has not started, or was closed.
        """
        if self._desk is None:
            raise self._unusable()
        return self._desk

    def start(self) -> None:
        """Open the journal, reach the workers, begin. Blocks; idempotent.

        Raises:
            KubediffusionError: The journal or the workers cannot be had.
        """
        with self._lock:
            if self._desk is not None or self._is_closed:
                return
            try:
                self._start()
            except BaseException:
                self._cleanup.close()
                raise

    def close(self) -> None:
        """Let go of everything, of a running `start` too; bounded and idempotent."""
        self._is_closed = True
        if (starting := self._starting) is not None:
            starting.shutdown()
        with self._lock:
            self._cleanup.close()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and wait for it.

        Raises:
            TimeoutError: It did not end in time.
            EngineClosedError: The engine was closed.
        """
        if self._loop is None:
            coroutine.close()
            raise self._unusable()
        try:
            return self._loop.run(coroutine, timeout)
        except errors.EngineClosedError as error:
            raise self._unusable() from error

    async def run_async(
        self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None
    ) -> T:
        """Run a coroutine on the engine's loop and wait for it on the caller's.

        Raises:
            TimeoutError: It did not end in time.
            EngineClosedError: The engine was closed.
        """
        if self._loop is None:
            coroutine.close()
            raise self._unusable()
        try:
            future = self._loop.submit(coroutine)
        except errors.EngineClosedError as error:
            raise self._unusable() from error
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(future)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._is_closed and task is not None and not task.cancelling():
                raise self._unusable() from error
            raise

    @property
    def is_started(self) -> bool:
        """Whether `start` has been through and `close` has not been called."""
        return self._desk is not None and not self._is_closed

    def check_running(self) -> None:
        """Refuse calls after the end.

        Raises:
            EngineClosedError: The engine has not started, or was closed.
            StaleEpochError: A newer start has taken over.
        """
        if self._core is None or self._is_closed:
            raise self._unusable()
        self._core.check_running()

    def submit(self, requests: Sequence[_orders.Given]) -> list[_record.Record]:
        """Check and take requests.

        Raises:
            KubediffusionError: One is wrong, or they cannot be taken; none was.
        """
        return self.run(self.desk.submit(self._orders(requests)))

    async def submit_async(self, requests: Sequence[_orders.Given]) -> list[_record.Record]:
        """Check and take requests.

        Raises:
            KubediffusionError: One is wrong, or they cannot be taken; none was.
        """
        return await self.run_async(self.desk.submit(self._orders(requests)))

    def outputs(
        self, records: Sequence[_record.Record], timeout: float | None
    ) -> list[_output.OmniRequestOutput]:
        """Wait for the ends of requests.

        Raises:
            ResultTimeoutError: Not all ended in time.
        """
        return self.run(self.desk.outputs(records, self._budget(timeout)))

    async def outputs_async(
        self, records: Sequence[_record.Record], timeout: float | None
    ) -> list[_output.OmniRequestOutput]:
        """Wait for the ends of requests.

        Raises:
            ResultTimeoutError: Not all ended in time.
        """
        return await self.run_async(self.desk.outputs(records, self._budget(timeout)))

    def abandon(self, records: Sequence[_record.Record]) -> None:
        """Cancel, without waiting, those that nobody could ask for any more."""
        nameless = [record for record in records if record.is_anonymous]
        if self._loop is not None and self._loop.is_usable and nameless:
            self._loop.submit(self.desk.cancel(nameless))

    def route_requests(self, step: Callable[[Sequence[Any]], Any]) -> None:
        """Have requests that are given to the executor go through the engine."""
        if isinstance(self._executor, linked.LinkedExecutor):
            self._executor.attach(step)

    def _budget(self, timeout: float | None) -> float | None:
        return self.settings.step_budget if timeout is None else timeout

    def _orders(self, requests: Sequence[_orders.Given]) -> list[_record.Order]:
        """Check requests against everything that is known.

        Raises:
            InvalidRequestError: Names every field that is wrong with the first bad one.
        """
        from kubediffusion import _orders  # Late: with what `start` loads.

        workers = self._core.snapshot if self._core is not None else ()
        return [_orders.make(request, self.settings, workers) for request in requests]

    def _unusable(self) -> errors.EngineClosedError:
        if self._is_closed:
            return errors.EngineClosedError("this engine is closed; build a new one")
        return errors.EngineClosedError("this engine has not started")

    def _start(self) -> None:
        from kubediffusion import _core, _delivery, _desk, _ledger  # Late: they load protobuf.
        from kubediffusion_wire import identifiers

        settings, cleanup = self.settings, self._cleanup
        journal, files, checkpoints = _open_state(settings, cleanup)
        loop = _loop.EngineLoop()
        cleanup.callback(loop.close)
        executor = self._executor_class(self.config)
        cleanup.callback(executor.shutdown)
        self._starting = executor
        if self._is_closed:  # Asked after `close` could see the executor, so one of both acts.
            raise self._unusable()
        executor.start(loop)
        self._starting = None
        delivery = _delivery.Delivery(files, cache_bytes=settings.result_cache_bytes)
        ledger = _ledger.Ledger(journal, settings)
        core = _core.Core(
            settings,
            ledger,
            delivery,
            instance=identifiers.new_incarnation(),
            checkpoints=checkpoints,
            on_loss=executor.take_loss,
        )
        if isinstance(executor, linked.LinkedExecutor):
            executor.caller = core.caller
        source = executor.links()
        if source is None:
            source = foreign.ForeignLinks(executor)
        loop.run(_begin(core, source))
        cleanup.callback(_stop, loop, core)
        self._loop, self._executor, self._core = loop, executor, core
        self._desk = _desk.Desk(core, ledger, delivery)


def given_config(
    config: _config.OmniDiffusionConfig | None, options: Mapping[str, Any]
) -> _config.OmniDiffusionConfig:
    """Return the configuration that an engine was given, in one way or the other.

    Raises:
        ConfigError: It was given in both ways.
    """
    from kubediffusion import _config

    if config is None:
        return _config.OmniDiffusionConfig(**options)
    if options:
        names = ", ".join(sorted(options))
        raise errors.ConfigError(f"give either a config or its fields; found both, {names}")
    return config


async def _begin(core: _core.Core, source: protocol.LinkSource) -> None:
    core.start(source)
    # So that requests can be checked against what the workers accept.
    await core.settled()


def _stop(loop: _loop.EngineLoop, core: _core.Core) -> None:
    if loop.is_usable:  # Not so in a process forked from the engine's own.
        loop.run(core.stop())


def _open_state(
    settings: _settings.EngineSettings, cleanup: contextlib.ExitStack
) -> tuple[_journal.Journal, _results.ResultFiles | None, _checkpoints.CheckpointFiles | None]:
    """Open the journal and the places for results and checkpoints.

    Raises:
        JournalError: They cannot be used, or another process uses them.
    """
    from kubediffusion import _journal  # Late: loads SQLite.

    if settings.state_dir is None:
        journal = _journal.SqliteJournal()
        cleanup.callback(journal.close)
        return journal, None, None
    from kubediffusion import _checkpoints, _results, _statedir

    folder = _statedir.StateDir(
        settings.state_dir, settings.engine_id, journal_mode=settings.journal_mode
    )
    cleanup.callback(folder.close)
    journal = _journal.SqliteJournal(folder.journal, uses_wal=folder.uses_wal)
    cleanup.callback(journal.close)
    results = _results.ResultFiles(folder.results) if settings.keep_results else None
    return journal, results, _checkpoints.CheckpointFiles(folder.checkpoints)

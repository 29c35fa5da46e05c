"""The executor whose worker lives in the engine's own process.

The only module of the engine that knows the worker's package, which it imports late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from kubediffusion import _loop, errors
from kubediffusion.executors import command, failures, linked

if TYPE_CHECKING:
    from kubediffusion._links import inprocess
    from kubediffusion_worker import config, runs, runtime

NAME = "worker-0"


class UniProcDiffusionExecutor(linked.LinkedExecutor):
    """Runs one worker in this process: no second interpreter, and no second chance.

    The simplest way to debug, and the least memory. The model computes on a thread of its
    own; it dies with the process, and a device that has failed stays failed until then.
    """

    grace: ClassVar[float] = 0.0
    """Seconds that running work gets at shutdown; the engine has let go of it."""

    def _init_executor(self) -> None:
        if command.count(self.config) != 1:
            raise errors.ConfigError(
                f"num_gpus must be 1 for backend 'uni', which is one worker in this process; "
                f"found {self.config.num_gpus}; use 'mp' for more"
            )
        self._flags = [*command.model_flags(self.config), "--name", NAME, "--registry", "none"]
        self._runtime: runtime.WorkerRuntime | None = None
        self._link: inprocess.InProcessLink | None = None
        self._sentinel: asyncio.Task[None] | None = None

    def _pipeline_loader(self) -> Callable[[], runs.LoadedPipeline] | None:
        """Return what loads the pipeline; None: the configured model."""
        return None

    def _connect(self, loop: _loop.EngineLoop) -> None:
        settings = _worker_config(self._flags)
        loop.run(self._start(settings))

    async def _start(self, settings: config.WorkerConfig) -> None:
        from kubediffusion._links import inprocess  # Late: loads protobuf.
        from kubediffusion_worker import runtime

        self._check_open()
        self._runtime = runtime.WorkerRuntime(settings, load=self._pipeline_loader())
        await self._runtime.start()
        await self._until_serving(self._runtime)
        self._link = inprocess.InProcessLink(NAME, self._runtime)
        self._remember(self._link)
        self._roster.publish([self._link])
        self._sentinel = asyncio.create_task(self._watch_over(self._runtime))

    async def _until_serving(self, worker: runtime.WorkerRuntime) -> None:
        timeout = self.config.start_timeout
        try:
            async with asyncio.timeout(timeout):
                await worker.serving()
        except TimeoutError as error:
            raise errors.WorkerFailedError(
                f"the model {self.config.model!r} was not loaded within {timeout} s; raise "
                "start_timeout if it only needs longer"
            ) from error
        except errors.WorkerFailedError as error:
            raise errors.ModelLoadError(
                f"cannot serve model {self.config.model!r}: {error.message}"
            ) from error

    async def _watch_over(self, worker: runtime.WorkerRuntime) -> None:
        """Report the failure of the device, after which nothing works any more."""
        failure = await asyncio.shield(worker.failed)
        if self._link is not None:
            self._link.mark_gone()
        self._roster.publish([])
        self.report_failure(
            failures.WorkerFailure(
                worker=NAME,
                incarnation=worker.incarnation,
                reason=failure.message,
                is_replaced=False,
            )
        )

    async def _check_links(self) -> None:
        if self._runtime is not None and self._runtime.failed.done():
            raise errors.WorkerFailedError(self._runtime.failed.result().message)
        await super()._check_links()

    async def _disconnect(self) -> None:
        if self._sentinel is not None:
            self._sentinel.cancel()
            await asyncio.gather(self._sentinel, return_exceptions=True)
        if self._runtime is not None:
            await self._runtime.close(self.grace)


def _worker_config(flags: list[str]) -> config.WorkerConfig:
    """Read flags as the worker's own program does, so that both mean the same.

    Raises:
        ConfigError: The worker's package is not complete, or refuses the flags.
    """
    try:
        from kubediffusion_worker import arguments
    except ImportError as error:
        raise errors.ConfigError(
            f"backend 'uni' needs the worker's packages, but {error.name!r} is missing; install "
            "'kubediffusion[worker]'"
        ) from error
    settings = arguments.parse(flags)
    if isinstance(settings, int):
        raise errors.ConfigError("the worker refuses its options; it says why on standard error")
    return settings.worker

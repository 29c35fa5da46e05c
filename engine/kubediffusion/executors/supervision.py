"""Keeping one worker process alive: start, wait until it serves, start again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from kubediffusion import _processes, _respawn, errors
from kubediffusion._links import remote
from kubediffusion.executors import failures
from kubediffusion_proto.v1 import worker_pb2

logger = logging.getLogger(__name__)

FIRST_LOOK = 0.02
LAST_LOOK = 0.25
"""Seconds between two looks at whether a worker serves; they grow from first to last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a worker is kept alive."""

    start_timeout: float
    """Seconds from start to serving."""

    grace: float
    """Seconds from SIGTERM to SIGKILL."""

    policy: _respawn.RespawnPolicy


class Supervisor:
    """Keeps the worker of one rank alive, as a task on the engine's loop.

    Args:
        prepare: Returns how to start it; called before each start.
        rules: How it is kept alive.
        on_change: Called whenever `link` has changed.
        on_failure: Called for each death that nobody asked for.
    """

    def __init__(
        self,
        prepare: Callable[[], _processes.Launch],
        rules: Rules,
        *,
        on_change: Callable[[], None],
        on_failure: Callable[[failures.WorkerFailure], None],
    ) -> None:
        self.link: remote.RemoteLink | None = None
        """To the worker while it serves."""
        self.problem: errors.KubediffusionError | None = None
        """Why there is no link."""
        self._prepare = prepare
        self._rules = rules
        self._on_change = on_change
        self._on_failure = on_failure
        self._has_started: asyncio.Future[None] | None = None

    async def started(self) -> None:
        """Wait until the worker serves for the first time.

        Raises:
            KubediffusionError: It will not; says why in one line.
        """
        await asyncio.shield(self._first())

    async def run(self) -> None:
        """Start the worker again and again, until it is not worth it; stop it on cancel."""
        first = self._first()
        try:
            await self._live_on()
        except errors.KubediffusionError as error:
            self.problem = error
            if not first.done():
                first.set_exception(error)
        finally:
            first.cancel()

    async def _live_on(self) -> NoReturn:
        """Live until it is not worth it.

        Raises:
            KubediffusionError: Why it is not.
        """
        history = _respawn.History()
        while True:
            launch = self._prepare()
            self.problem = errors.WorkerStartingError(f"worker {launch.name!r} is starting")
            end = await self._live(launch)
            decision = _respawn.after(end.death, history, self._rules.policy)
            is_replaced = isinstance(decision, _respawn.Respawn)
            if self._first().done():
                self._on_failure(end.failure(is_replaced=is_replaced))
            if isinstance(decision, _respawn.GiveUp):
                raise end.error(decision.because)
            logger.warning(
                "worker ended and is started again",
                extra={"worker": end.worker, "cause": end.reason, "delay": decision.delay},
            )
            self.problem = errors.WorkerStartingError(
                f"worker {end.worker!r} {end.reason}; it is started again"
            )
            history = decision.history
            await asyncio.sleep(decision.delay)

    async def _live(self, launch: _processes.Launch) -> _End:
        """Go through one life of the worker."""
        clock = asyncio.get_running_loop().time
        process = await _processes.WorkerProcess.start(launch)
        incarnation, served_since, exit_code = "", None, None
        try:
            link, incarnation = await self._serving(process)
            served_since = clock()
            self._publish(link)
            exit_code = await process.wait()
        except errors.WorkerGoneError:
            exit_code = await process.wait()
        except TimeoutError:
            pass
        finally:
            self._withdraw()
            await process.stop(self._rules.grace)
        return _End(
            worker=launch.name,
            incarnation=incarnation,
            last_words=process.last_words,
            death=_respawn.Death(
                exit_code=exit_code,
                served_seconds=0.0 if served_since is None else clock() - served_since,
            ),
        )

    async def _serving(self, process: _processes.WorkerProcess) -> tuple[remote.RemoteLink, str]:
        """Wait until the worker serves; return a link to it and its incarnation.

        Raises:
            WorkerGoneError: The process has ended before.
            TimeoutError: It takes too long.
        """
        async with asyncio.timeout(self._rules.start_timeout):
            listening = await process.listening()
            link = remote.RemoteLink(process.name, listening.address)
            try:
                await _until_serving(process, link)
            except BaseException:
                await link.close()
                raise
            return link, listening.incarnation

    def _publish(self, link: remote.RemoteLink) -> None:
        self.link, self.problem = link, None
        self._on_change()
        if not self._first().done():
            self._first().set_result(None)

    def _withdraw(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.mark_gone()
            self._on_change()

    def _first(self) -> asyncio.Future[None]:
        if self._has_started is None:
            self._has_started = asyncio.get_running_loop().create_future()
        return self._has_started


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How one life of a worker ended."""

    worker: str
    incarnation: str
    last_words: str
    death: _respawn.Death

    @property
    def reason(self) -> str:
        """For people: "was killed by SIGKILL"."""
        # A killed process did not say why; its last line is about something else.
        is_explained = self.death.exit_code is not None and self.death.exit_code > 0
        return _respawn.describe(self.death, self.last_words if is_explained else "")

    def failure(self, *, is_replaced: bool) -> failures.WorkerFailure:
        """Return what failure callbacks are told."""
        return failures.WorkerFailure(
            worker=self.worker,
            incarnation=self.incarnation,
            reason=self.reason,
            is_replaced=is_replaced,
        )

    def error(self, because: str) -> errors.KubediffusionError:
        """Return the error of a worker that is not started again."""
        if self.death.exit_code == _respawn.LOAD_CODE:
            line = self.last_words.removeprefix("kubediffusion-worker: ")
            return errors.ModelLoadError(line or "the worker cannot load its model")
        return errors.WorkerFailedError(
            f"worker {self.worker!r} {self.reason}; it is not started again: {because}"
        )


async def _until_serving(process: _processes.WorkerProcess, link: remote.RemoteLink) -> None:
    delay = FIRST_LOOK
    while True:
        if process.has_ended:
            raise errors.WorkerGoneError(f"worker {process.name!r} ended before it served")
        with contextlib.suppress(errors.KubediffusionError):
            answer = await link.get_worker()
            if answer.worker.state == worker_pb2.WORKER_STATE_SERVING:
                return
        await asyncio.sleep(delay)
        delay = min(2 * delay, LAST_LOOK)

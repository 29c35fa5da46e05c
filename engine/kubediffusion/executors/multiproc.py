"""The executor whose workers are child processes of the engine."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from kubediffusion import _loop, _processes, _respawn, _sockets, errors
from kubediffusion._links import protocol
from kubediffusion.executors import command, linked, machine

if TYPE_CHECKING:
    from kubediffusion.executors import supervision


class MultiProcDiffusionExecutor(linked.LinkedExecutor):
    """Starts `num_gpus` workers on this machine, each a process with a copy of the model.

    They listen on Unix sockets in a private folder, take one GPU each (or share the cores
    where there is none), are started again when they die, and end with the engine, also
    when that is killed. Their ranks are 0 to `num_gpus` - 1, their names `worker-<rank>`.
    """

    program: ClassVar[Sequence[str]] = (sys.executable, "-m", "kubediffusion_worker")
    """What is started; flags are appended."""

    policy: ClassVar[_respawn.RespawnPolicy] = _respawn.RespawnPolicy()
    """How eagerly a dead worker is started again."""

    grace: ClassVar[float] = 5.0
    """Seconds that a worker gets to end by itself; the engine has let go of its work."""

    def _init_executor(self) -> None:
        self._flags = command.model_flags(self.config)
        self._shares = command.shares(self.config, machine.this_one())
        self._folder: _sockets.SocketFolder | None = None
        self._supervisors: list[supervision.Supervisor] = []
        self._tasks: list[asyncio.Task[None]] = []

    def _connect(self, loop: _loop.EngineLoop) -> None:
        loop.run(self._start_all())

    async def _start_all(self) -> None:
        from kubediffusion.executors import supervision  # Late: loads gRPC.

        self._check_open()
        rules = supervision.Rules(
            start_timeout=self.config.start_timeout, grace=self.grace, policy=self.policy
        )
        self._folder = _sockets.SocketFolder()
        self._supervisors = [
            supervision.Supervisor(
                functools.partial(self._launch, self._folder, rank),
                rules,
                on_change=self._publish,
                on_failure=self.report_failure,
            )
            for rank in range(len(self._shares))
        ]
        self._tasks = [asyncio.create_task(each.run()) for each in self._supervisors]
        await asyncio.gather(*(each.started() for each in self._supervisors))

    async def _disconnect(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._folder is not None:
            self._folder.close()

    def _launch(self, folder: _sockets.SocketFolder, rank: int) -> _processes.Launch:
        name = f"worker-{rank}"
        share = self._shares[rank]
        return _processes.Launch(
            name=name,
            arguments=[
                *self.program,
                # The engine is done with its work, so there is nothing to finish.
                *("--grace", "0"),
                *self._flags,
                *command.thread_flags(self.config, share),
                *("--name", name),
                *("--listen", f"unix:{folder.socket(name)}"),
                *("--registry", "none"),
            ],
            environment=share,
        )

    def _publish(self) -> None:
        links = [each.link for each in self._supervisors if each.link is not None]
        for link in links:
            self._remember(link)
        self._roster.publish(links)

    def _ranks(self) -> Sequence[protocol.WorkerLink]:
        return [_link_of(each, rank) for rank, each in enumerate(self._supervisors)]


def _link_of(supervisor: supervision.Supervisor, rank: int) -> protocol.WorkerLink:
    if supervisor.link is not None:
        return supervisor.link
    problem = supervisor.problem or errors.NoWorkerError("it is being started")
    raise type(problem)(f"rank {rank} has no worker: {problem.message}")


MultiprocDiffusionExecutor = MultiProcDiffusionExecutor
"""vLLM-Omni's spelling."""

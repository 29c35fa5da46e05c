"""Everything around checkpoints that moves: taking, keeping, writing, bringing, looking up."""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    compute,
    identity,
    imports,
    instructions,
    lifecycle,
    metrics,
    refusals,
    runs,
    saving,
    stimuli,
)

logger = logging.getLogger(__name__)

LAST_WRITE_SECONDS = 5.0
"""That the folder gets at the end for what has not been written yet."""

Tell = Callable[[stimuli.AnyStimulus], None]


class Custody:
    """The checkpoints of one worker; for `conductor` and `runtime` alone."""

    def __init__(
        self,
        machine: lifecycle.Lifecycle,
        tell: Tell,
        clock: Callable[[], float],
        observed: metrics.Metrics,
        *,
        limits: imports.ImportLimits,
        writer: saving.Writer | None,
    ) -> None:
        self.vault = saving.Vault()
        self.imports = imports.Imports(limits)
        self.writer = writer
        self._unsaved: set[identity.GenerationKey] = set()
        self._wishes = saving.Wishes()
        self._machine = machine
        self._tell = tell
        self._clock = clock
        self._metrics = observed
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")

    async def take(self, stimulus: stimuli.CheckpointAsked) -> worker_pb2.CheckpointInfo:
        """Have a checkpoint taken.

        Raises:
            KubediffusionError: It is refused, or fails.
        """
        self._tell(stimulus)
        return await self._wishes.wait(stimulus.key)

    async def store(
        self,
        run: int,
        key: identity.GenerationKey,
        attempt: compute.Attempt,
        draft: runs.CheckpointDraft,
        pipeline: runs.LoadedPipeline,
    ) -> None:
        """Turn a draft into a checkpoint that is kept."""
        answers = self._wishes.take(key)
        self._tell(stimuli.Captured(now=self._clock(), run=run, step=draft.step))
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        saved: saving.Saved | None = None
        problem = ""
        try:
            saved = await loop.run_in_executor(self._thread, saving.finish, draft, pipeline)
        except runs.NotCapturableError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the generation goes on
            problem = f"it raised {type(error).__name__}"
        if saved is not None:
            self._metrics.checkpoint_seconds.observe(time.monotonic() - begun)
            problem = self._offer(run, key, saved)
        attempt.checkpoint_stored()
        if saved is not None and not problem:
            saving.fulfil(answers, saved.info)
            return
        if key in self._machine.live:
            self._note_failure(key, problem)
        self._tell(stimuli.NotSaved(now=self._clock(), run=run))
        saving.refuse(answers, refusals.not_saved(key, problem))

    def not_captured(self, run: int, key: identity.GenerationKey, reason: str) -> None:
        """Note that there is no draft."""
        self._note_failure(key, reason)
        self._tell(stimuli.NotSaved(now=self._clock(), run=run))
        self._wishes.refuse(key, refusals.not_saved(key, reason))

    def submit(self, stimulus: stimuli.Submitted, saved: saving.Saved) -> None:
        """Submit a generation together with the checkpoint that it goes on from.

        Raises:
            KubediffusionError: It is refused.
        """
        name = (stimulus.key, saved.info.step, 0)
        self.vault.offered[name] = saved
        try:
            self._tell(stimulus)
        finally:
            self.vault.offered.pop(name, None)

    def act(self, instruction: instructions.KeepCheckpoint | instructions.DropCheckpoint) -> None:
        """Keep or drop, as the state machine says."""
        if isinstance(instruction, instructions.KeepCheckpoint):
            self.vault.keep(instruction.key, instruction.step, instruction.run)
        else:
            self.vault.drop(instruction.key, instruction.step)

    def note_end(self, key: identity.GenerationKey, state: str) -> None:
        """Answer those who wait for a checkpoint of what has ended."""
        self._wishes.refuse(key, refusals.past_its_steps(key, state))

    def free(self, key: identity.GenerationKey) -> None:
        """Forget a generation."""
        self._unsaved.discard(key)
        if self.writer is not None:
            self.writer.remove(key)

    async def receive(
        self,
        key: identity.GenerationKey,
        info: worker_pb2.CheckpointInfo,
        requests: imports.Requests,
        pipeline: runs.LoadedPipeline,
    ) -> str:
        """Take in a checkpoint; return what to submit with.

        Raises:
            KubediffusionError: It is refused.
        """
        ticket = self.imports.reserve(info.size)
        try:
            data = await imports.data_of(requests, info, self.imports.limits.idle_seconds)
            saved = await asyncio.to_thread(saving.describe, data, pipeline)
        finally:
            self.imports.release(ticket)
        self.imports.keep(key, saved, self._clock())
        return saved.info.sha256

    async def close(self) -> None:
        """Let go of the threads, after what has to be written."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self.writer is not None:
            await self.writer.close(LAST_WRITE_SECONDS)

    def _offer(self, run: int, key: identity.GenerationKey, saved: saving.Saved) -> str:
        """Offer a checkpoint to the state machine; return why it is not kept, if so."""
        name = (key, saved.info.step, run)
        self.vault.offered[name] = saved
        self._tell(stimuli.Stored(now=self._clock(), run=run, info=saved.info))
        is_kept = self.vault.offered.pop(name, None) is None
        if self.writer is not None and key in self._machine.generations:
            self.writer.write(key, saved)
        if is_kept:
            self._metrics.checkpoints.inc()
            return ""
        return "it has ended, or there is no room for its checkpoint"

    def _note_failure(self, key: identity.GenerationKey, reason: str) -> None:
        self._metrics.checkpoint_failures.labels("memory").inc()
        if key in self._unsaved:
            return  # Said once.
        self._unsaved.add(key)
        logger.info(
            "Generation was not saved",
            extra={"engine_id": key.engine_id, "request_id": key.request_id, "cause": reason},
        )


def check_fits(
    saved: saving.Saved,
    *,
    digest: str,
    seed: int,
    fingerprint: str,
    capability: worker_pb2.ResumeCapability,
    min_exactness: worker_pb2.Exactness,
) -> None:
    """Refuse a checkpoint of something else, or one that is not good enough.

    Raises:
        InvalidCheckpointError: It is not of this request, or going on from it would give
            less than the request allows.
    """
    facts = saved.facts
    if facts.spec_digest != digest:
        raise errors.InvalidCheckpointError("the checkpoint is of another request")
    if facts.seed != seed:
        raise errors.InvalidCheckpointError("the checkpoint is of another seed")
    is_exact = (
        facts.fingerprint == fingerprint and capability == worker_pb2.RESUME_CAPABILITY_EXACT
    )
    if min_exactness == worker_pb2.EXACTNESS_EXACT and not is_exact:
        raise errors.InvalidCheckpointError(
            "going on from the checkpoint is not exact on this worker, as min_exactness asks; "
            "use one with the checkpoint's fingerprint that resumes exactly",
            metadata={"wanted": facts.fingerprint, "found": fingerprint},
        )

"""The bytes of checkpoints: from a draft to a file that is kept, fetched or written to disk."""

import asyncio
import concurrent.futures
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import chunks, errors
from kubediffusion_worker import identity, metrics, refusals, runs, sinks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint."""

    info: worker_pb2.CheckpointInfo
    facts: runs.CheckpointFacts
    """What it says about itself."""
    data: bytes


def describe(data: bytes, pipeline: runs.LoadedPipeline) -> Saved:
    """Describe the bytes of a checkpoint; takes a while, so call it off the loop.

    Raises:
        InvalidCheckpointError: They are none of this pipeline.
    """
    facts = pipeline.read_checkpoint(data)
    info = worker_pb2.CheckpointInfo(
        step=facts.step,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        fingerprint=facts.fingerprint,
        format=facts.format,
    )
    return Saved(info, facts, data)


def finish(draft: runs.CheckpointDraft, pipeline: runs.LoadedPipeline) -> Saved:
    """Turn a draft into bytes; takes a while, so call it off the loop.

    Raises:
        NotCapturableError: It would be too large, or could not be read again.
    """
    try:
        return describe(draft.to_bytes(), pipeline)
    except errors.InvalidCheckpointError as error:
        raise runs.NotCapturableError(f"it could not be read again: {error.message}") from error


def messages(saved: Saved, offset: int) -> Iterator[worker_pb2.FetchCheckpointResponse | bytes]:
    """Yield the header, then the bytes from an offset on, framed by hand.

    Raises:
        InvalidRequestError: The offset lies outside of the checkpoint.
    """
    size = saved.info.size
    if not 0 <= offset <= size:
        raise errors.InvalidRequestError.at("offset", f"must be from 0 to {size}; found {offset}")
    yield worker_pb2.FetchCheckpointResponse(header=saved.info)
    view = memoryview(saved.data)
    for start in range(offset, size, chunks.CHUNK_SIZE):
        yield chunks.frame_data(view[start : start + chunks.CHUNK_SIZE])


class Vault:
    """Holds the checkpoints that the state machine says are kept."""

    def __init__(self) -> None:
        self._kept: dict[identity.GenerationKey, dict[int, Saved]] = {}
        self.offered: dict[tuple[identity.GenerationKey, int, int], Saved] = {}
        """What the state machine is being told of, by key, step and run."""

    def keep(self, key: identity.GenerationKey, step: int, run: int) -> None:
        """Keep what was offered."""
        of_key = self._kept.setdefault(key, {})
        of_key.pop(step, None)  # So that the newest comes last.
        of_key[step] = self.offered.pop((key, step, run))

    def drop(self, key: identity.GenerationKey, step: int) -> None:
        """Let go of a checkpoint."""
        of_key = self._kept.get(key, {})
        of_key.pop(step, None)
        if not of_key:
            self._kept.pop(key, None)

    def get(self, key: identity.GenerationKey, step: int = 0) -> Saved:
        """Return a checkpoint; step 0 stands for the newest.

        Raises:
            CheckpointNotFoundError: There is none.
        """
        of_key = self._kept.get(key, {})
        found = of_key.get(step) if step else next(reversed(of_key.values()), None)
        if found is None:
            raise refusals.no_checkpoint(key, step)
        return found


@dataclass(slots=True)
class Wishes:
    """The callers that wait for a checkpoint to be taken."""

    _waiting: dict[identity.GenerationKey, list["asyncio.Future[worker_pb2.CheckpointInfo]"]] = (
        field(default_factory=dict)
    )

    async def wait(self, key: identity.GenerationKey) -> worker_pb2.CheckpointInfo:
        """Wait for the next checkpoint of a generation.

        Raises:
            NotResumableError: It cannot be saved.
        """
        answer: asyncio.Future[worker_pb2.CheckpointInfo]
        answer = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        return await answer

    def take(
        self, key: identity.GenerationKey
    ) -> list["asyncio.Future[worker_pb2.CheckpointInfo]"]:
        """Return who waits, to be answered by the caller."""
        return self._waiting.pop(key, [])

    def refuse(self, key: identity.GenerationKey, error: errors.KubediffusionError) -> None:
        """Answer all who wait with an error."""
        refuse(self.take(key), error)


def refuse(
    answers: list["asyncio.Future[worker_pb2.CheckpointInfo]"], error: errors.KubediffusionError
) -> None:
    """Answer those who still wait with an error."""
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)


def fulfil(
    answers: list["asyncio.Future[worker_pb2.CheckpointInfo]"], info: worker_pb2.CheckpointInfo
) -> None:
    """Answer those who still wait."""
    for answer in answers:
        if not answer.done():
            answer.set_result(info)


class Writer:
    """Writes checkpoints to a folder, from a thread of its own.

    Of each generation the newest one waits while another is being written: a slow disk holds
    up nothing, and fills no memory.
    """

    def __init__(self, folder: sinks.Folder, observed: metrics.Metrics) -> None:
        self._folder = folder
        self._metrics = observed
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint-folder")
        self._waiting: dict[identity.GenerationKey, Saved] = {}
        self._removed: set[identity.GenerationKey] = set()
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    def write(self, key: identity.GenerationKey, saved: Saved) -> None:
        """Write a checkpoint soon, instead of an older one that waits."""
        self._waiting[key] = saved
        self._removed.discard(key)
        self._wake()

    def remove(self, key: identity.GenerationKey) -> None:
        """Remove what there is of a generation soon."""
        self._waiting.pop(key, None)
        self._removed.add(key)
        self._wake()

    async def find(
        self, key: identity.GenerationKey, fits: Callable[[bytes], Saved | None]
    ) -> Saved | None:
        """Return the newest checkpoint of a generation that fits.

        Args:
            key: Of the generation.
            fits: Returns the checkpoint of some bytes, if they are one that is wanted.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._folder.find, key, fits)

    async def tidy(self) -> None:
        """Remove what is too old."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._folder.tidy, time.time())

    async def close(self, timeout: float) -> None:
        """Write what waits, as far as that is possible within some seconds."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout)
            self._task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting or self._removed:
            if self._removed:
                await loop.run_in_executor(self._thread, self._folder.remove, self._removed.pop())
                continue
            key, saved = next(iter(self._waiting.items()))
            del self._waiting[key]
            try:
                await loop.run_in_executor(
                    self._thread, self._folder.write, key, saved.info, saved.data
                )
            except OSError as error:
                self._note_failure(error)
            else:
                self._is_failing = False
                self._metrics.checkpoints_written.inc()

    def _note_failure(self, error: OSError) -> None:
        self._metrics.checkpoint_failures.labels("folder").inc()
        if not self._is_failing:  # Once, until it has worked again.
            cause = error.strerror or type(error).__name__
            logger.warning("Checkpoints cannot be written to the folder", extra={"cause": cause})
        self._is_failing = True

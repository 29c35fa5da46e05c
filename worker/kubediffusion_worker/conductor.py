"""Carries out what the state machine decides, with threads, clocks and streams.

Everything that happens is told to `lifecycle` on one event loop, and done as it says: runs on
the compute thread, encoding on threads of its own, events to watches.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Literal, TypeVar, assert_never

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import (
    admission,
    compute,
    config,
    custody,
    identity,
    instructions,
    lifecycle,
    memory,
    metrics,
    model,
    previewing,
    results,
    ring,
    runs,
    saving,
    sinks,
    stimuli,
    views,
    vitals,
    watching,
)

T = TypeVar("T")
Load = Callable[[], runs.LoadedPipeline]

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 1.0
"""Seconds that watchers get, at the end, to be told how everything ended."""

LOOK_SECONDS = 1.0
"""Between two looks at gauges and memory."""


_TOO_MANY = frozenset({"progress", "preview", "checkpointed"})
"""Events that are not logged: they come every few seconds."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a worker will never serve again."""

    kind: Literal["model", "device"]
    message: str
    """One line, for people."""
    error: str = ""
    """The type of what was raised, where something was."""


@dataclass(slots=True)
class _Job:
    """What is kept of a run until its result is complete."""

    key: identity.GenerationKey
    attempt: compute.Attempt
    options: worker_pb2.OutputOptions
    preview: previewing.Easel
    outcome: runs.RunOutcome | None = None
    blob: results.Blob | None = None


def steady_clock() -> Callable[[], float]:
    """Make a clock that reads Unix seconds and never goes back."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


class Conductor:
    """The moving parts of one worker; for `runtime.WorkerRuntime` alone."""

    def __init__(
        self,
        settings: config.WorkerConfig,
        load: Load,
        encode: results.Encode,
        observed: metrics.Metrics,
    ) -> None:
        self.machine = lifecycle.Lifecycle(settings.bounds)
        self.watches = watching.Watches()
        self.clock = steady_clock()
        self.started_at = self.clock()
        self.failed: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
        self.pipeline: runs.LoadedPipeline | None = None
        self.traces: dict[identity.GenerationKey, str] = {}
        """The trace ids of generations that were submitted with one."""
        self._settings = settings
        self._load = load
        self._encode = encode
        self._metrics = observed
        self._compute = compute.ComputeThread()
        self._reports = compute.Reports(
            self._run_started,
            self._run_advanced,
            self._run_ended,
            self._run_freed,
            self._broke,
            captured=self._captured,
            not_captured=self._not_captured,
            resumed=self._run_resumed,
            paused=self._run_paused,
            previewed=self._previewed,
        )
        self._policy = compute.CheckpointPolicy(min_interval=settings.checkpoint_seconds)
        folder = settings.checkpoint_folder
        self.custody = custody.Custody(
            self.machine,
            self.tell,
            self.clock,
            observed,
            limits=settings.import_limits,
            writer=saving.Writer(sinks.Folder(folder), observed) if folder else None,
        )
        self._encoders = concurrent.futures.ThreadPoolExecutor(2, "encode")
        self._jobs: dict[int, _Job] = {}
        self._blobs: dict[identity.GenerationKey, results.Blob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop_beat = time.monotonic()
        self._changed = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load the model, and to watch the clock."""
        self._compute.start()
        self._spawn(self._tick())
        self._spawn(self._load_model())
        if self.custody.writer is not None:
            self._spawn(self.custody.writer.tidy())

    async def loading_over(self) -> None:
        """Wait until the model has been loaded, or it is clear that it will not be."""
        while self.machine.worker_state == worker_pb2.WORKER_STATE_STARTING:
            await self._change()

    def drain(self, budget: float, policy: worker_pb2.DrainPolicy, *, is_exit: bool) -> None:
        """Begin to empty the worker within some seconds, or go about it faster."""
        now = self.clock()
        name = worker_pb2.DrainPolicy.Name(policy).removeprefix("DRAIN_POLICY_")
        logger.info("Worker drains", extra={"budget_seconds": budget, "policy": name})
        self.tell(stimuli.DrainAsked(now=now, until=now + budget, policy=policy, is_exit=is_exit))

    async def close(self, budget: float, policy: worker_pb2.DrainPolicy) -> None:
        """See `runtime.WorkerRuntime.close`."""
        self.drain(budget, policy, is_exit=True)
        if self._closing is None:
            self._closing = asyncio.create_task(self._wind_down())
        await asyncio.shield(self._closing)

    def facts(self) -> vitals.Facts:
        """Return what probes are answered from; from any thread."""
        return vitals.Facts(
            state=self.machine.worker_state,
            loop_beat=self._loop_beat,
            signs=self._compute.pulse.read(),
            is_compiling=self._settings.model.compile,
        )

    def blob(self, key: identity.GenerationKey) -> results.Blob | None:
        """Return the result of a generation, if there is one."""
        return self._blobs.get(key)

    async def on_compute_thread(self, function: Callable[[], T]) -> T:
        """Call a function on the compute thread, after the jobs that it has.

        Raises:
            WorkerFailedError: The device has failed.
        """
        try:
            return await self._compute.call(function)
        except runs.StickyDeviceError as error:
            self._broke(f"the device failed: {error}")
            raise errors.WorkerFailedError(f"the device failed: {error}") from error

    def tell(self, stimulus: stimuli.AnyStimulus) -> None:
        """Tell the state machine what happened, and do what it says.

        Raises:
            KubediffusionError: It refuses; everything else that it said has been done.
        """
        before = self.machine.worker_state
        refused: errors.KubediffusionError | None = None
        for instruction in self.machine.handle(stimulus):
            if isinstance(instruction, instructions.Refuse):
                refused = instruction.error
            else:
                self._act(instruction)
        if self.machine.worker_state != before:
            self.watches.notify_load(is_urgent=True)
            self._look()
        elif not isinstance(stimulus, stimuli.Ticked):
            self.watches.notify_load(is_urgent=False)
        self._changed.set()
        if refused is not None:
            self._metrics.count_error(refused)
            raise refused

    def show_previews(self) -> None:
        """Have previews made for those that somebody looks at, and for no others."""
        for job in self._jobs.values():
            job.attempt.want_previews(self._preview_interval(job.key))

    def _preview_interval(self, key: identity.GenerationKey) -> float | None:
        seconds = self._settings.preview_seconds
        return seconds if seconds and self.watches.show_previews_of(key) else None

    def _act(self, instruction: instructions.Act) -> None:  # noqa: C901 - a table
        match instruction:
            case instructions.Emit():
                self._note_event(instruction)
                self.watches.notify(instruction.key)
            case instructions.Start():
                self._start_run(instruction)
            case instructions.RaiseCancel():
                self._jobs[instruction.run].attempt.cancel()
            case instructions.Park():
                self._jobs[instruction.run].attempt.pause()
            case instructions.Unpark():
                self._jobs[instruction.run].attempt.unpause()
            case instructions.Capture():
                self._jobs[instruction.run].attempt.ask_checkpoint()
            case instructions.KeepCheckpoint() | instructions.DropCheckpoint():
                self.custody.act(instruction)
            case instructions.Encode():
                self._start_encoding(instruction)
            case instructions.Keep():
                blob = self._jobs[instruction.run].blob
                assert blob is not None, "only what has been encoded is kept"
                self._blobs[instruction.key] = blob
            case instructions.Free():
                self._free(instruction)
            case instructions.EndWatch():
                self.watches.end(instruction.watch, instruction.error)
            case _:
                assert_never(instruction)

    def _start_run(self, instruction: instructions.Start) -> None:
        assert self.pipeline is not None, "nothing starts before the model is loaded"
        spec = instruction.spec
        key, info = instruction.key, instruction.checkpoint
        attempt = compute.Attempt(
            instruction.run,
            self.pipeline,
            spec,
            admission.seed_of(key, spec),
            priority=instruction.priority,
            deadline=instruction.deadline,
            checkpoint=self.custody.vault.get(key, info.step).data if info else None,
            policy=self._policy,
        )
        easel = previewing.Easel(instruction.run, self._encoders, self.tell, self.clock)
        self._jobs[instruction.run] = _Job(key, attempt, spec.output, easel)
        attempt.want_previews(self._preview_interval(key))
        attempt.begin(self._compute, self._reports)

    def _start_encoding(self, instruction: instructions.Encode) -> None:
        job = self._jobs[instruction.run]
        outcome, job.outcome = job.outcome, None
        assert outcome is not None, "only what has been computed is encoded"
        build = functools.partial(
            results.build, outcome, job.options, self._circumstances(job), self._encode
        )
        self._spawn(self._finish_encoding(instruction.run, job, build))

    def _circumstances(self, job: _Job) -> results.Circumstances:
        found = self.machine.generations[job.key]
        return results.Circumstances(
            fingerprint=job.attempt.fingerprint,
            queue_seconds=(found.started_at or found.submitted_at) - found.submitted_at,
        )

    def _free(self, instruction: instructions.Free) -> None:
        self._blobs.pop(instruction.key, None)
        self.traces.pop(instruction.key, None)
        self.custody.free(instruction.key)
        self.watches.forget(instruction.key)
        if instruction.is_evicted:
            logger.warning("Generation was evicted unacknowledged", extra=_ids(instruction.key))

    def _note_event(self, instruction: instructions.Emit) -> None:
        kind = instruction.event.WhichOneof("event") or ""
        if kind in _TOO_MANY:
            return
        facts = {**_ids(instruction.key), "event": kind}
        if trace := self.traces.get(instruction.key):
            facts["trace_id"] = trace
        if kind == "resumed":
            exactness = worker_pb2.Exactness.Name(instruction.event.resumed.exactness)
            self._metrics.resumed.labels(exactness.removeprefix("EXACTNESS_").lower()).inc()
        if ring.is_terminal(instruction.event):
            self.custody.note_end(instruction.key, kind.upper())
            self._metrics.count_end(self.machine.generations[instruction.key])
            if instruction.event.HasField("failed"):
                facts["reason"] = instruction.event.failed.error.reason
        logger.info("Generation changed", extra=facts)

    def _run_started(self, run: int) -> None:
        now = self.clock()
        self.tell(stimuli.RunStarted(now=now, run=run))
        found = self.machine.generations.get(self._jobs[run].key)
        if found is not None:
            self._metrics.queue_seconds.observe(max(0.0, now - found.submitted_at))

    def _run_advanced(self, run: int, advance: compute.Advance) -> None:
        self._metrics.steps.inc(len(advance.step_seconds))
        for seconds in advance.step_seconds:
            self._metrics.step_seconds.observe(seconds)
        newest = advance.newest
        self.tell(
            stimuli.Stepped(
                now=self.clock(),
                run=run,
                step=newest.step,
                total=newest.total,
                timestep=newest.timestep,
                seconds=newest.seconds,
            )
        )

    def _run_ended(self, run: int, ending: compute.Ending) -> None:
        now = self.clock()
        if isinstance(ending, runs.RunOutcome):
            self._jobs[run].outcome = ending
            self.tell(stimuli.Computed(now=now, run=run))
        elif isinstance(ending, errors.KubediffusionError):
            self.tell(stimuli.RunFailed(now=now, run=run, error=ending))
        else:
            self.tell(stimuli.RunCancelled(now=now, run=run))

    def _run_freed(self, run: int) -> None:
        if run not in self.machine.encoding:
            self._jobs.pop(run, None)  # Fast encoders have done so already.
        self.tell(stimuli.ComputeFreed(now=self.clock(), run=run))

    def _captured(self, run: int, draft: runs.CheckpointDraft) -> None:
        job = self._jobs.get(run)
        if job is not None and self.pipeline is not None:
            self._spawn(self.custody.store(run, job.key, job.attempt, draft, self.pipeline))

    def _not_captured(self, run: int, reason: str) -> None:
        job = self._jobs.get(run)
        if job is not None:
            self.custody.not_captured(run, job.key, reason)

    def _run_resumed(self, run: int, step: int, exactness: worker_pb2.Exactness) -> None:
        now = self.clock()
        self.tell(stimuli.Resumed(now=now, run=run, step=step, exactness=exactness))

    def _run_paused(self, run: int, step: int) -> None:
        self.tell(stimuli.Parked(now=self.clock(), run=run, step=step))

    def _previewed(self, run: int, picture: runs.PreviewData) -> None:
        job = self._jobs.get(run)
        if job is not None and job.preview.put(picture):
            self._spawn(job.preview.draw())

    def _broke(self, message: str) -> None:
        self._fail(Failure("device", message, runs.StickyDeviceError.__name__))

    async def _finish_encoding(
        self, run: int, job: _Job, build: Callable[[], results.Blob]
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            blob = await loop.run_in_executor(self._encoders, build)
        except errors.KubediffusionError as error:
            self.tell(stimuli.RunFailed(now=self.clock(), run=run, error=error))
        except Exception as error:  # noqa: BLE001  # encoders may raise anything
            kind = type(error).__name__
            logger.error("Encoding failed", extra={**_ids(job.key), "error": kind})
            failed = errors.PipelineError(f"the output could not be encoded: {kind}")
            self.tell(stimuli.RunFailed(now=self.clock(), run=run, error=failed))
        else:
            job.blob = blob
            self.tell(stimuli.Encoded(now=self.clock(), run=run, result=blob.result))
        self._jobs.pop(run, None)

    async def _load_model(self) -> None:
        try:
            pipeline = await self._compute.call(self._load_all, vitals.Activity.LOADING)
        except (model.ModelLoadError, errors.KubediffusionError) as error:
            self._fail(Failure("model", error.message))
        except Exception as error:  # noqa: BLE001  # loaders of models may raise anything
            text = f"{type(error).__name__}: {error}"
            self._fail(Failure("model", text.splitlines()[0]))
        else:
            self.pipeline = pipeline
            self.tell(stimuli.ModelLoaded(now=self.clock()))
            self._note_model(pipeline)

    def _note_model(self, pipeline: runs.LoadedPipeline) -> None:
        facts = views.model(self._settings, pipeline)
        self._metrics.describe(facts, views.release())
        logger.info(
            "Model is loaded",
            extra={
                "model": facts.id,
                "pipeline": facts.pipeline,
                "dtype": facts.dtype,
                "device": pipeline.device,
                "seconds": round(self.clock() - self.started_at, 3),
            },
        )

    def _load_all(self) -> runs.LoadedPipeline:
        pipeline = self._load()
        for adapter in self._settings.adapters:
            pipeline.adapters.load(adapter.name, adapter.source)
        return pipeline

    def _fail(self, failure: Failure) -> None:
        if self.failed.done():
            return
        logger.error("Worker failed", extra={"kind": failure.kind, "cause": failure.message})
        self.failed.set_result(failure)
        error = errors.WorkerFailedError(failure.message)
        self.tell(stimuli.WorkerBroke(now=self.clock(), error=error))

    async def _tick(self) -> None:
        looked_at = 0.0
        while True:
            self._loop_beat = time.monotonic()
            self.tell(stimuli.Ticked(now=self.clock()))
            self.custody.imports.expire(self.clock())
            if self._loop_beat - looked_at >= LOOK_SECONDS:
                looked_at = self._loop_beat
                self._look()
            await asyncio.sleep(self._settings.tick_seconds)

    def _look(self) -> None:
        self._metrics.look(self.machine, len(self.watches))
        if self.pipeline is not None:
            for kind, size in memory.measure().items():
                self._metrics.memory.labels(kind).set(size)

    async def _wind_down(self) -> None:
        while not self.machine.is_empty:
            assert self.machine.drain_until is not None, "a drain was asked for"
            remaining = self.machine.drain_until - self.clock()
            if remaining <= 0:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._change(), remaining)
        # What the budget did not suffice for is handed over now, not at some later tick.
        self.tell(stimuli.Ticked(now=self.clock()))
        await self.watches.caught_up(LAST_WORDS_SECONDS)
        self.watches.end_all(errors.WorkerGoneError("the worker has ended"))
        for job in self._jobs.values():
            job.attempt.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._encoders.shutdown(wait=False, cancel_futures=True)
        await self.custody.close()
        await self._compute.stop(timeout=LAST_WORDS_SECONDS)

    async def _change(self) -> None:
        """Wait until something was told to the state machine."""
        self._changed.clear()
        await self._changed.wait()

    def _spawn(self, coroutine: Coroutine[object, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        # A defect of ours. Whatever it did is not done any more: better to start anew.
        logger.error("A task of the worker raised", exc_info=task.exception())
        kind = type(task.exception()).__name__
        self._fail(Failure("device", f"internal error: {kind}", kind))


def _ids(key: identity.GenerationKey) -> dict[str, object]:
    return {"engine_id": key.engine_id, "request_id": key.request_id}

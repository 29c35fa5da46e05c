"""The runtime of a worker: the calls of the wire, over gRPC or from the same process.

Its methods have the names of the calls and raise `kubediffusion_wire.errors`. What they set
in motion is `conductor`'s.
"""

import asyncio
import dataclasses
import functools
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import TypeVar

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers
from kubediffusion_worker import (
    admission,
    conductor,
    config,
    custody,
    fencing,
    generation,
    identity,
    imports,
    lifecycle,
    methods,
    metrics,
    model,
    refusals,
    results,
    runs,
    saving,
    stimuli,
    tracing,
    views,
    vitals,
    watching,
)

T = TypeVar("T")

PAGE = 256
"""Generations in one message of a listing."""


class WorkerRuntime:
    """One worker. Make, start, use and close it on one event loop.

    Args:
        settings: Its model and bounds.
        load: Loads the pipeline, on the compute thread; None: the model of the settings.
        encode: Turns outputs into files; None: as the wire names them.
        observed: Where it counts; None: metrics of its own.
    """

    def __init__(
        self,
        settings: config.WorkerConfig,
        *,
        load: conductor.Load | None = None,
        encode: results.Encode | None = None,
        observed: metrics.Metrics | None = None,
    ) -> None:
        self.settings = settings
        self.incarnation = identifiers.new_incarnation()
        self.metrics = observed or metrics.Metrics()
        self._conductor = conductor.Conductor(
            settings,
            load or functools.partial(model.load, settings.model),
            encode or _encode_as_named,
            self.metrics,
        )
        self._watch_numbers = itertools.count(1)
        self._methods = methods.Methods(self, time.monotonic)

    @property
    def machine(self) -> lifecycle.Lifecycle:
        """The state machine, to look at."""
        return self._conductor.machine

    @property
    def state(self) -> worker_pb2.WorkerState:
        """What the worker is up to."""
        return self.machine.worker_state

    @property
    def failed(self) -> "asyncio.Future[conductor.Failure]":
        """Done once the worker will never serve again."""
        return self._conductor.failed

    async def start(self) -> None:
        """Begin to answer, and to load the model."""
        self._conductor.start()

    async def serving(self) -> None:
        """Wait until the model has been loaded.

        Raises:
            WorkerFailedError: It cannot be; says why in one line.
        """
        await self._conductor.loading_over()
        if self.failed.done():
            raise errors.WorkerFailedError(self.failed.result().message)

    async def close(
        self,
        budget: float,
        policy: worker_pb2.DrainPolicy = worker_pb2.DRAIN_POLICY_FINISH_THEN_CHECKPOINT,
    ) -> None:
        """Save and finish what runs, keep what engines have to fetch, then end.

        Waiting generations are handed over at once, running ones, with a checkpoint, when the
        budget does not suffice for them. May be called again to shorten the budget.

        Args:
            budget: In seconds.
            policy: For what runs.
        """
        await self._conductor.close(budget, policy)

    def facts(self) -> vitals.Facts:
        """Return what probes are answered from; from any thread."""
        return self._conductor.facts()

    @property
    def loaded(self) -> runs.LoadedPipeline:
        """The pipeline.

        Raises:
            WorkerStartingError: It is still being loaded.
            WorkerFailedError: It could not be.
        """
        if self._conductor.pipeline is not None:
            return self._conductor.pipeline
        if self.failed.done():
            raise errors.WorkerFailedError(self.failed.result().message)
        raise errors.WorkerStartingError("the model is still being loaded", retry_delay=1.0)

    def describe(self) -> worker_pb2.Worker:
        """Return what `get_worker` answers."""
        return views.worker(
            self.settings,
            self._conductor.pipeline,
            incarnation=self.incarnation,
            state=self.state,
            load=self.machine.load(self._clock()),
            methods=self._methods.names,
            started_at=self._conductor.started_at,
        )

    async def get_worker(
        self, request: worker_pb2.GetWorkerRequest
    ) -> worker_pb2.GetWorkerResponse:
        """Describe the worker, and the highest epoch seen of an engine id."""
        epoch = 0
        if request.engine_id:
            identifiers.check_engine_id(request.engine_id)
            epoch = self.machine.fences.epoch_of(request.engine_id).number
        return worker_pb2.GetWorkerResponse(worker=self.describe(), engine_epoch=epoch)

    async def submit_generation(
        self, request: worker_pb2.SubmitGenerationRequest
    ) -> worker_pb2.SubmitGenerationResponse:
        """Accept a generation; the same one again is the same one."""
        submitted = admission.submitted(request, self._clock())
        key = submitted.key
        is_new = key not in self.machine.generations
        saved: saving.Saved | None = None
        # Without a pipeline the state machine refuses, and says why.
        if is_new and self._conductor.pipeline is not None:
            admission.check_spec(request.spec, self.settings, self._conductor.pipeline)
            saved = await self._checkpoint_for(request, submitted)
            is_new = key not in self.machine.generations
        if is_new and saved is not None:
            with_it = dataclasses.replace(submitted, checkpoint=saved.info)
            self._conductor.custody.submit(with_it, saved)
            self._conductor.custody.imports.forget(key, request.checkpoint_reference)
        else:
            self._conductor.tell(submitted)
        if is_new and (trace := tracing.current_trace.get()):
            self._conductor.traces[key] = trace
        return worker_pb2.SubmitGenerationResponse(
            generation=self._view(self.machine.find(key)),
            is_created=is_new,
            incarnation=self.incarnation,
        )

    async def watch_generations(
        self, request: worker_pb2.WatchGenerationsRequest
    ) -> AsyncGenerator[worker_pb2.WatchGenerationsResponse, None]:
        """Replay and follow events; ending it never ends a generation."""
        caller = admission.caller_of(request.caller)
        wanted = watching.wanted(request)
        number = next(self._watch_numbers)
        watch = watching.Watch(number, wanted, self.machine, self.incarnation)
        self._conductor.watches.add(watch)
        try:
            if caller.role is identity.Role.ENGINE:
                self._conductor.tell(
                    stimuli.WatchOpened(now=self._clock(), watch=number, caller=caller)
                )
            self._conductor.show_previews()
            async for response in watch.responses(self._conductor.clock):
                yield response
        finally:
            self._conductor.watches.remove(watch)
            self._conductor.show_previews()
            self._conductor.tell(
                stimuli.WatchClosed(now=self._clock(), watch=number, engine_id=wanted.engine_id)
            )

    async def list_generations(
        self, request: worker_pb2.ListGenerationsRequest
    ) -> AsyncGenerator[worker_pb2.ListGenerationsResponse, None]:
        """List the generations that are held; at least one message, even if there is none."""
        found = list(views.generations(self.machine, request, self._clock()))
        for start in range(0, max(1, len(found)), PAGE):
            yield worker_pb2.ListGenerationsResponse(
                generations=found[start : start + PAGE], incarnation=self.incarnation
            )

    async def fetch_result(
        self, request: worker_pb2.FetchResultRequest
    ) -> AsyncGenerator[worker_pb2.FetchResultResponse | bytes, None]:
        """Read a result: a message with the header, then serialized messages with data."""
        key = admission.key_of(request.engine_id, request.request_id)
        for message in results.messages(self._blob(key), request.offset):
            yield message

    async def ack_generation(
        self, request: worker_pb2.AckGenerationRequest
    ) -> worker_pb2.AckGenerationResponse:
        """Forget a generation whose result is safe elsewhere."""
        caller = admission.caller_of(request.caller)
        key = admission.key_of(caller.engine_id, request.request_id)
        found = self.machine.generations.get(key)
        is_here = found is not None and not found.is_acknowledged
        self._conductor.tell(stimuli.Acknowledged(now=self._clock(), key=key, caller=caller))
        return worker_pb2.AckGenerationResponse(is_released=is_here)

    async def cancel_generation(
        self, request: worker_pb2.CancelGenerationRequest
    ) -> worker_pb2.CancelGenerationResponse:
        """Ask for a cancel; the terminal event confirms it."""
        caller = admission.caller_of(request.caller)
        key = admission.key_of(caller.engine_id, request.request_id)
        found = self.machine.generations.get(key)
        self._conductor.tell(stimuli.CancelAsked(now=self._clock(), key=key, caller=caller))
        assert found is not None, "the state machine refuses what it does not know"
        return worker_pb2.CancelGenerationResponse(state=found.state.wire)

    async def call_method(
        self, request: worker_pb2.CallMethodRequest
    ) -> worker_pb2.CallMethodResponse:
        """Call a method of the allow-list."""
        role = identity.caller_of(request.caller).role
        return worker_pb2.CallMethodResponse(value=await self._methods.call(request, role))

    async def load_adapter(
        self, request: worker_pb2.LoadAdapterRequest
    ) -> worker_pb2.LoadAdapterResponse:
        """Load a LoRA adapter under a name."""
        fencing.check_writer(identity.caller_of(request.caller), operators_allowed=True)
        adapter = await self.add_adapter(request.name, request.source, request.weight_name)
        return worker_pb2.LoadAdapterResponse(
            adapter=worker_pb2.Adapter(name=adapter.name, sha256=adapter.sha256)
        )

    async def unload_adapter(
        self, request: worker_pb2.UnloadAdapterRequest
    ) -> worker_pb2.UnloadAdapterResponse:
        """Remove a LoRA adapter."""
        fencing.check_writer(identity.caller_of(request.caller), operators_allowed=True)
        is_unloaded = await self.remove_adapter(request.name)
        return worker_pb2.UnloadAdapterResponse(is_unloaded=is_unloaded)

    async def list_adapters(
        self, request: worker_pb2.ListAdaptersRequest
    ) -> worker_pb2.ListAdaptersResponse:
        """List the resident LoRA adapters."""
        return worker_pb2.ListAdaptersResponse(adapters=views.adapters(self.loaded))

    async def add_adapter(self, name: str, source: str, weight_name: str) -> runs.LoadedAdapter:
        """Load a LoRA adapter, after the runs that are under way."""
        identifiers.check_identifier(name, field="name")
        shelf = self.loaded.adapters
        if not source:
            raise errors.InvalidRequestError.at("source", "must be given")
        return await self.on_compute_thread(lambda: shelf.load(name, source, weight_name))

    async def remove_adapter(self, name: str) -> bool:
        """Unload a LoRA adapter, after the runs that are under way."""
        identifiers.check_identifier(name, field="name")
        shelf = self.loaded.adapters
        return await self.on_compute_thread(lambda: shelf.unload(name))

    async def on_compute_thread(self, function: Callable[[], T]) -> T:
        """Call a function on the compute thread, after the jobs that it has.

        Raises:
            WorkerFailedError: The device has failed.
        """
        return await self._conductor.on_compute_thread(function)

    async def pause_generation(
        self, request: worker_pb2.PauseGenerationRequest
    ) -> worker_pb2.PauseGenerationResponse:
        """Ask a generation to stand still; the event `parked` confirms it."""
        caller = admission.caller_of(request.caller)
        key = admission.key_of(caller.engine_id, request.request_id)
        self._conductor.tell(stimuli.PauseAsked(now=self._clock(), key=key, caller=caller))
        state = self.machine.find(key).state.wire
        return worker_pb2.PauseGenerationResponse(state=state)

    async def unpause_generation(
        self, request: worker_pb2.UnpauseGenerationRequest
    ) -> worker_pb2.UnpauseGenerationResponse:
        """Let a generation go on that stands still."""
        caller = admission.caller_of(request.caller)
        key = admission.key_of(caller.engine_id, request.request_id)
        self._conductor.tell(stimuli.UnpauseAsked(now=self._clock(), key=key, caller=caller))
        state = self.machine.find(key).state.wire
        return worker_pb2.UnpauseGenerationResponse(state=state)

    async def take_checkpoint(
        self, request: worker_pb2.TakeCheckpointRequest
    ) -> worker_pb2.TakeCheckpointResponse:
        """Save a generation at its next boundary; answered when it can be fetched."""
        caller = admission.caller_of(request.caller)
        key = admission.key_of(caller.engine_id, request.request_id)
        asked = stimuli.CheckpointAsked(now=self._clock(), key=key, caller=caller)
        info = await self._conductor.custody.take(asked)
        return worker_pb2.TakeCheckpointResponse(checkpoint=info)

    async def fetch_checkpoint(
        self, request: worker_pb2.FetchCheckpointRequest
    ) -> AsyncGenerator[worker_pb2.FetchCheckpointResponse | bytes, None]:
        """Read a checkpoint: a message with the header, then serialized messages with data."""
        key = admission.key_of(request.engine_id, request.request_id)
        self.machine.find(key)
        saved = self._conductor.custody.vault.get(key, request.step)
        for message in saving.messages(saved, request.offset):
            yield message

    async def import_checkpoint(
        self, requests: AsyncIterator[worker_pb2.ImportCheckpointRequest]
    ) -> worker_pb2.ImportCheckpointResponse:
        """Take in a checkpoint, for a submit within the next minute."""
        first = await imports.first_of(requests, self.settings.import_limits.idle_seconds)
        caller = admission.caller_of(first.caller)
        fencing.check_writer(caller, operators_allowed=False)
        key = admission.key_of(caller.engine_id, first.request_id)
        if self.machine.drain_until is not None:
            raise refusals.draining(self.machine.drain_until - self._clock())
        reference = await self._conductor.custody.receive(key, first.header, requests, self.loaded)
        return worker_pb2.ImportCheckpointResponse(checkpoint_reference=reference)

    async def drain(self, request: worker_pb2.DrainRequest) -> worker_pb2.DrainResponse:
        """Begin to empty the worker; its state tells when it is done."""
        fencing.check_writer(identity.caller_of(request.caller), operators_allowed=True)
        policy, budget = admission.drain_of(request, self.settings.drain_seconds)
        self._conductor.drain(budget, policy, is_exit=False)
        return worker_pb2.DrainResponse(state=self.state)

    async def undrain(self, request: worker_pb2.UndrainRequest) -> worker_pb2.UndrainResponse:
        """Serve again."""
        fencing.check_writer(identity.caller_of(request.caller), operators_allowed=True)
        self._conductor.tell(stimuli.UndrainAsked(now=self._clock()))
        return worker_pb2.UndrainResponse(state=self.state)

    async def _checkpoint_for(
        self, request: worker_pb2.SubmitGenerationRequest, submitted: stimuli.Submitted
    ) -> saving.Saved | None:
        """Return what a new generation shall go on from.

        Raises:
            CheckpointNotFoundError: It was not imported.
            InvalidCheckpointError: It is of something else, or not good enough.
        """
        pipeline, key = self.loaded, submitted.key
        kept = self._conductor.custody

        def check(saved: saving.Saved) -> None:
            custody.check_fits(
                saved,
                digest=submitted.digest,
                seed=admission.seed_of(key, request.spec),
                fingerprint=pipeline.fingerprint_for(request.spec),
                capability=pipeline.resume_capability,
                min_exactness=request.min_exactness,
            )

        def fits(data: bytes) -> saving.Saved | None:
            try:
                saved = saving.describe(data, pipeline)
                check(saved)
            except errors.FixRequestError:
                return None
            return saved

        if request.checkpoint_reference:
            found = kept.imports.get(key, request.checkpoint_reference, self._clock())
            check(found)
            return found
        if request.attempt > 1 and kept.writer is not None:
            return await kept.writer.find(key, fits)
        return None

    def _view(self, found: generation.Generation) -> worker_pb2.Generation:
        position = 0
        newest = found.events.newest
        if found.phase is generation.Phase.WAITING and newest is not None:
            position = newest.queued.position
        return views.one_generation(found, self._clock(), position)

    def _blob(self, key: identity.GenerationKey) -> results.Blob:
        """Return a result.

        Raises:
            KubediffusionError: There is none; says why.
        """
        found = self.machine.find(key)
        blob = self._conductor.blob(key)
        if blob is not None:
            return blob
        if found.error is not None:
            raise found.error
        if found.end is generation.State.CANCELLED:
            raise errors.GenerationCancelledError(f"generation {key.request_id!r} was cancelled")
        raise errors.ResultNotReadyError(
            f"generation {key.request_id!r} has no result; it is {found.state.name}"
        )

    def _clock(self) -> float:
        return self._conductor.clock()


def _encode_as_named(
    outputs: Sequence[runs.OutputData], options: worker_pb2.OutputOptions
) -> Sequence[runs.OutputData]:
    # Late, and on an encoding thread: it loads the libraries of pictures and videos.
    from kubediffusion_worker import encodings

    return encodings.encode(outputs, options)

"""What the worker tells about itself and its generations, as messages."""

import importlib.metadata
import os
import pathlib
from collections.abc import Iterator, Sequence

from google.protobuf import timestamp_pb2

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import config, generation, identity, lifecycle, runs

PROTOCOL_MINOR = 0
"""Grows with every addition to the wire."""

ENCODINGS = (
    worker_pb2.ENCODING_RAW,
    worker_pb2.ENCODING_PNG,
    worker_pb2.ENCODING_JPEG,
    worker_pb2.ENCODING_WEBP,
    worker_pb2.ENCODING_MP4,
)


def timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    """Make a timestamp of Unix seconds."""
    message = timestamp_pb2.Timestamp()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def release() -> str:
    """Return the release of this code; empty where it is not installed."""
    try:
        return importlib.metadata.version("kubediffusion")
    except importlib.metadata.PackageNotFoundError:
        return ""


def model_id(given: str) -> str:
    """Return the name of a model: a hub id as it is, of a folder its last part."""
    path = pathlib.Path(given.removeprefix("file://"))
    return path.name if path.is_absolute() or path.exists() else given


def model_names(given: str) -> frozenset[str]:
    """Return all names that requests may call the resident model by."""
    return frozenset({given, model_id(given)})


def model(settings: config.WorkerConfig, pipeline: runs.LoadedPipeline | None) -> worker_pb2.Model:
    """Describe the model, loaded or not."""
    message = worker_pb2.Model(id=model_id(settings.model.model), revision=settings.model.revision)
    if pipeline is not None:
        message.revision = pipeline.revision or settings.model.revision
        message.dtype = pipeline.dtype
        message.pipeline = pipeline.class_name
        message.weights_digest = pipeline.weights_digest
    return message


def capabilities(pipeline: runs.LoadedPipeline) -> worker_pb2.Capabilities:
    """Describe what can be asked of the pipeline."""
    return worker_pb2.Capabilities(
        resume=pipeline.resume_capability,
        cancel=pipeline.cancel_capability,
        preview=pipeline.has_previews,
        batch=False,
        adapters=pipeline.adapters.is_supported,
        encodings=ENCODINGS,
    )


def adapters(pipeline: runs.LoadedPipeline) -> list[worker_pb2.Adapter]:
    """List the LoRA adapters in memory."""
    return [
        worker_pb2.Adapter(name=each.name, sha256=each.sha256)
        for each in pipeline.adapters.resident
    ]


def worker(
    settings: config.WorkerConfig,
    pipeline: runs.LoadedPipeline | None,
    *,
    incarnation: str,
    state: worker_pb2.WorkerState,
    load: worker_pb2.WorkerLoad,
    methods: Sequence[str],
    started_at: float,
) -> worker_pb2.Worker:
    """Describe the worker; before the model is loaded without what depends on it."""
    message = worker_pb2.Worker(
        name=settings.name,
        incarnation=incarnation,
        process_id=os.getpid(),
        version=release(),
        protocol_minor=PROTOCOL_MINOR,
        state=state,
        model=model(settings, pipeline),
        limits=settings.limits(),
        load=load,
        methods=methods,
        start_time=timestamp(started_at),
    )
    if pipeline is not None:
        message.capabilities.CopyFrom(capabilities(pipeline))
        message.fingerprint = pipeline.fingerprint
        message.fingerprint_facts.update(pipeline.fingerprint_facts)
        message.parameters.extend(pipeline.parameters)
        message.adapters.extend(adapters(pipeline))
        message.device = pipeline.device
    return message


def one_generation(
    found: generation.Generation, now: float, position: int = 0
) -> worker_pb2.Generation:
    """Describe a generation.

    Args:
        found: The generation.
        now: On the clock of the state machine.
        position: Its place in the queue.
    """
    message = worker_pb2.Generation(
        engine_id=found.key.engine_id,
        request_id=found.key.request_id,
        state=found.state.wire,
        spec_digest=found.digest,
        attempt=found.attempt,
        priority=found.priority,
        last_sequence=found.events.last_sequence,
        progress=found.progress,
        submit_time=timestamp(found.submitted_at),
        result=found.result,
        error=errors.to_message(found.error) if found.error else None,
        position=position,
    )
    if found.progress_at is not None and not found.is_ended:
        message.progress_age.FromNanoseconds(int((now - found.progress_at) * 1e9))
    return message


def generations(
    machine: lifecycle.Lifecycle, request: worker_pb2.ListGenerationsRequest, now: float
) -> Iterator[worker_pb2.Generation]:
    """Describe the generations that a request asks for, oldest first."""
    places: dict[identity.GenerationKey, int] = {
        key: place for place, key in enumerate(machine.line)
    }
    for key, found in list(machine.generations.items()):
        if request.engine_id and key.engine_id != request.engine_id:
            continue
        if request.states and found.state.wire not in request.states:
            continue
        yield one_generation(found, now, places.get(key, 0))

"""Results: from what a pipeline returned to bytes that clients read in chunks."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import chunks, errors, tensors
from kubediffusion_worker import runs

Encode = Callable[[Sequence[runs.OutputData], worker_pb2.OutputOptions], Sequence[runs.OutputData]]
"""Turns raw outputs into files, where the options ask for them; on an encoding thread."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A complete result."""

    result: worker_pb2.Result
    """Describes the bytes."""
    data: memoryview
    """All outputs, one after the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Circumstances:
    """What is said of a result beside its bytes."""

    fingerprint: str
    queue_seconds: float


def build(
    outcome: runs.RunOutcome,
    options: worker_pb2.OutputOptions,
    circumstances: Circumstances,
    encode: Encode,
) -> Blob:
    """Encode and describe the outputs of a run; takes time, so call it off the loop.

    Raises:
        KubediffusionError: They cannot be encoded as asked for.
    """
    begun = time.monotonic()
    outputs = encode(outcome.outputs, options)
    # One output, the usual case, is not copied.
    data = memoryview(
        outputs[0].data if len(outputs) == 1 else b"".join(each.data for each in outputs)
    )
    described = _describe(outputs)
    digest = described[0].sha256 if len(outputs) == 1 else hashlib.sha256(data).hexdigest()
    result = worker_pb2.Result(
        size=data.nbytes,
        sha256=digest,
        outputs=described,
        exactness=outcome.exactness,
        resumed_from=outcome.resumed_from,
        fingerprint=circumstances.fingerprint,
        metrics=worker_pb2.GenerationMetrics(
            queue_seconds=circumstances.queue_seconds,
            compute_seconds=outcome.compute_seconds,
            step_seconds=outcome.step_seconds,
            steps=outcome.steps,
            encode_seconds=time.monotonic() - begun,
            peak_memory_bytes=outcome.peak_memory_bytes,
        ),
    )
    return Blob(result, data)


def messages(blob: Blob, offset: int) -> Iterator[worker_pb2.FetchResultResponse | bytes]:
    """Yield the header, then the bytes from an offset on, framed by hand.

    Raises:
        InvalidRequestError: The offset lies outside of the result.
    """
    if not 0 <= offset <= blob.result.size:
        raise errors.InvalidRequestError.at(
            "offset", f"must be from 0 to {blob.result.size}; found {offset}"
        )
    yield worker_pb2.FetchResultResponse(header=blob.result)
    for start in range(offset, blob.result.size, chunks.CHUNK_SIZE):
        yield chunks.frame_data(blob.data[start : start + chunks.CHUNK_SIZE])


def _describe(outputs: Sequence[runs.OutputData]) -> list[worker_pb2.Output]:
    described = []
    offset = 0
    for output in outputs:
        size = memoryview(output.data).nbytes
        message = worker_pb2.Output(
            kind=output.kind,
            encoding=output.encoding,
            shape=output.shape,
            offset=offset,
            size=size,
            seed=output.seed,
            sha256=hashlib.sha256(output.data).hexdigest(),
            name=output.name,
        )
        if output.dtype:
            message.dtype = tensors.dtype_to_wire(output.dtype)
        if output.is_flagged is not None:
            message.is_flagged = output.is_flagged
        described.append(message)
        offset += size
    return described

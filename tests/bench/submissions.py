"""Requests to a worker with the fake pipeline, over a link alone."""

from kubediffusion._links import protocol
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import values

ENGINE_ID = "bench"


def caller() -> worker_pb2.Caller:
    """Returns who asks."""
    return worker_pb2.Caller(
        engine_id=ENGINE_ID, epoch=1, instance="bench", role=worker_pb2.ROLE_ENGINE
    )


def request(
    request_id: str, *, steps: int = 1, **extra: object
) -> worker_pb2.SubmitGenerationRequest:
    """Returns a submission; see `kubediffusion_worker.testing` for the extra arguments."""
    spec = worker_pb2.GenerationSpec(prompt="noise", num_inference_steps=steps, seed=1)
    for name, value in extra.items():
        spec.extra_args[name].CopyFrom(values.encode(value))
    return worker_pb2.SubmitGenerationRequest(
        caller=caller(), request_id=request_id, spec=spec, attempt=1
    )


async def finish(
    link: protocol.WorkerLink, submission: worker_pb2.SubmitGenerationRequest
) -> None:
    """Submits and waits for the end of the generation."""
    await link.submit_generation(submission)
    watch = worker_pb2.WatchGenerationsRequest(
        caller=caller(), request_ids=[submission.request_id], until_terminal=True
    )
    async for response in link.watch_generations(watch):
        for event in response.events:
            if event.HasField("failed"):
                raise RuntimeError(event.failed.error.message)

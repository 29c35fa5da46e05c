"""From requests to stimuli: what callers send is checked before anything is decided."""

import time

from google.protobuf import timestamp_pb2

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers, validation
from kubediffusion_worker import config, estimates, identity, runs, stimuli, views

MAX_PRIORITY = 1000

MAX_DRAIN_SECONDS = 7 * 86_400.0


def key_of(engine_id: str, request_id: str) -> identity.GenerationKey:
    """Return the address of a generation.

    Raises:
        InvalidRequestError: One of the ids is none.
    """
    identifiers.check_engine_id(engine_id)
    identifiers.check_request_id(request_id)
    return identity.GenerationKey(engine_id, request_id)


def caller_of(message: worker_pb2.Caller) -> identity.Caller:
    """Return the caller of a write or a watch.

    Raises:
        InvalidRequestError: It has no engine id, or names its start by something else.
    """
    identifiers.check_identifier(message.engine_id, field="caller.engine_id")
    if message.instance:  # It is kept, so its length must have an end.
        identifiers.check_identifier(message.instance, field="caller.instance")
    return identity.caller_of(message)


def submitted(
    request: worker_pb2.SubmitGenerationRequest, now: float, *, wall: float | None = None
) -> stimuli.Submitted:
    """Check the form of a request, but not yet its specification.

    Args:
        request: What came.
        now: On the clock of the state machine.
        wall: Unix seconds by the clock on the wall, which deadlines are meant by; None: now.

    Raises:
        InvalidRequestError: A field has no meaning.
    """
    caller = caller_of(request.caller)
    key = key_of(caller.engine_id, request.request_id)
    if not request.HasField("spec"):
        raise errors.InvalidRequestError.at("spec", "must be given")
    if not -MAX_PRIORITY <= request.priority <= MAX_PRIORITY:
        raise errors.InvalidRequestError.at(
            "priority", f"must be from -{MAX_PRIORITY} to {MAX_PRIORITY}; found {request.priority}"
        )
    return stimuli.Submitted(
        now=now,
        key=key,
        caller=caller,
        spec=request.spec,
        digest=identifiers.spec_digest(request.spec),
        attempt=max(1, request.attempt),
        priority=request.priority,
        deadline=_deadline(request, now, time.time() if wall is None else wall),
        work=work_of(request.spec),
    )


def check_spec(
    spec: worker_pb2.GenerationSpec, settings: config.WorkerConfig, pipeline: runs.LoadedPipeline
) -> None:
    """Refuse what this worker's pipeline cannot or shall not compute.

    Raises:
        InvalidRequestError: With all violations that were found.
        AdapterNotFoundError: A LoRA adapter is not resident.
    """
    violations = validation.check_spec(
        spec,
        pipeline.parameters,
        settings.limits(),
        models=views.model_names(settings.model.model),
    )
    if violations:
        raise errors.InvalidRequestError.of(violations)
    pipeline.check(spec)


def drain_of(
    request: worker_pb2.DrainRequest, usual: float
) -> tuple[worker_pb2.DrainPolicy, float]:
    """Return the policy of a drain, and its budget in seconds.

    Args:
        request: What came.
        usual: The budget where it names none.

    Raises:
        InvalidRequestError: There is no such policy or budget.
    """
    policy = request.policy or worker_pb2.DRAIN_POLICY_FINISH_THEN_CHECKPOINT
    if policy not in worker_pb2.DrainPolicy.values():
        raise errors.InvalidRequestError.at("policy", f"must be a known one; found {policy}")
    if not request.HasField("budget"):
        return policy, usual
    budget = request.budget.seconds + request.budget.nanos * 1e-9
    if not 0 <= budget <= MAX_DRAIN_SECONDS:
        raise errors.InvalidRequestError.at(
            "budget", f"must be from 0 to {MAX_DRAIN_SECONDS:.0f} seconds; found {budget}"
        )
    return policy, budget


def seed_of(key: identity.GenerationKey, spec: worker_pb2.GenerationSpec) -> int:
    """Return the seed of the first output: the given one, or one that follows from the ids."""
    if spec.HasField("seed"):
        return spec.seed
    return identifiers.derive_seed(*key)


def work_of(spec: worker_pb2.GenerationSpec) -> estimates.Work:
    """Return the size of the work, as far as the specification tells."""
    outputs = spec.num_outputs if spec.HasField("num_outputs") else 1
    return estimates.Work(steps=max(0, spec.num_inference_steps) * max(1, outputs))


def _deadline(
    request: worker_pb2.SubmitGenerationRequest, now: float, wall: float
) -> float | None:
    if not request.HasField("deadline"):
        return None
    return now + _unix_seconds(request.deadline) - wall


def _unix_seconds(message: timestamp_pb2.Timestamp) -> float:
    # Not ToNanoseconds: a hostile timestamp may lie outside of what it takes.
    return message.seconds + message.nanos * 1e-9

"""What can go wrong between an engine and a worker, by what the caller can do about it.

    KubediffusionError
    ├── RetryElsewhereError            try again, best on another worker
    │   ├── WorkerGoneError
    │   ├── WorkerFailedError
    │   ├── RpcTimeoutError            (a TimeoutError too)
    │   └── CorruptDataError
    ├── WaitError                      try again later; see retry_delay
    │   ├── WorkerDrainingError
    │   ├── WorkerStartingError
    │   ├── QueueFullError
    │   ├── RetentionFullError
    │   └── NoWorkerError
    ├── FixRequestError                (a ValueError too) change the request
    │   ├── InvalidRequestError        see violations
    │   ├── RequestConflictError
    │   ├── GenerationNotFoundError
    │   ├── AlreadyAcknowledgedError
    │   ├── ResultNotReadyError
    │   ├── MethodNotAllowedError
    │   ├── AdapterNotFoundError
    │   ├── InvalidCheckpointError
    │   ├── CheckpointNotFoundError
    │   ├── NotResumableError
    │   └── MessageTooLargeError
    └── GiveUpError                    nothing that the caller does will help
        ├── PipelineError
        ├── DeviceMemoryError
        ├── PoisonedError
        ├── DeadlineExceededError
        ├── GenerationCancelledError
        ├── StaleEpochError
        ├── NotImplementedByWorkerError
        ├── EvictedError
        ├── UntrustedPeerError
        └── InternalError

Every class has one pair of status code and reason, and every pair one class, so that an error
is the same one at both ends. Messages say what was wanted, what was found and what to do; they
never hold a prompt or a secret. This module imports neither grpc nor protobuf, which are slow
to load.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubediffusion_proto.v1 import worker_pb2


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request."""

    field: str
    """The path of the field, for example `extra_args.sigmas[2]`."""
    description: str
    """What was wanted, what was found, what to do."""


class KubediffusionError(Exception):
    """Is the root of all errors that kubediffusion raises on purpose.

    Attributes:
        message: For people.
        reason: UPPER_SNAKE_CASE and stable, for programs.
        status_code: The name of the gRPC status code.
        violations: What is wrong with the request, where that is known.
        retry_delay: Seconds after which a new attempt makes sense; None where unknown.
        metadata: Further facts, for programs.
    """

    status_code: str = "UNKNOWN"
    reason: str = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        violations: Iterable[Violation] = (),
        retry_delay: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.retry_delay = retry_delay
        self.metadata: Mapping[str, str] = dict(metadata or {})


class RetryElsewhereError(KubediffusionError):
    """Is raised when the same request may well succeed on another worker."""

    status_code = "UNAVAILABLE"
    reason = "RETRY_ELSEWHERE"


class WorkerGoneError(RetryElsewhereError):
    """Is raised when the worker cannot be reached or its process has ended."""

    reason = "WORKER_GONE"


class WorkerFailedError(RetryElsewhereError):
    """Is raised when the worker is up but its model or device does not work."""

    reason = "WORKER_FAILED"


class RpcTimeoutError(RetryElsewhereError, TimeoutError):
    """Is raised when a worker did not answer a call in time."""

    status_code = "DEADLINE_EXCEEDED"
    reason = "RPC_TIMEOUT"


class CorruptDataError(RetryElsewhereError):
    """Is raised when received bytes do not have the digest or form that they should have."""

    status_code = "DATA_LOSS"
    reason = "DATA_CORRUPT"


class WaitError(KubediffusionError):
    """Is raised when the same request may succeed later."""

    status_code = "UNAVAILABLE"
    reason = "WAIT"


class WorkerDrainingError(WaitError):
    """Is raised when a worker is being emptied and takes no new work."""

    reason = "WORKER_DRAINING"


class WorkerStartingError(WaitError):
    """Is raised when a worker still loads its model."""

    reason = "WORKER_STARTING"


class QueueFullError(WaitError):
    """Is raised when a queue is at its bound."""

    status_code = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"


class RetentionFullError(WaitError):
    """Is raised when a worker keeps so many results that it takes no new work."""

    status_code = "RESOURCE_EXHAUSTED"
    reason = "RETENTION_FULL"


class NoWorkerError(WaitError):
    """Is raised when no worker is connected that could take the request."""

    reason = "NO_WORKER"


class FixRequestError(KubediffusionError, ValueError):
    """Is raised when the request itself must change."""

    status_code = "INVALID_ARGUMENT"
    reason = "FIX_REQUEST"


class InvalidRequestError(FixRequestError):
    """Is raised when fields of a request are unknown, ill-typed or out of bounds."""

    reason = "INVALID_REQUEST"

    @classmethod
    def at(cls, field: str, description: str) -> "InvalidRequestError":
        """Makes the error of one violation; see `Violation` for the arguments."""
        return cls(f"{field} {description}", violations=[Violation(field, description)])

    @classmethod
    def of(cls, violations: Sequence[Violation]) -> "InvalidRequestError":
        """Makes the error of all violations that were found in one request."""
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        return cls(f"{first.field} {first.description}{more}", violations=violations)


class RequestConflictError(FixRequestError):
    """Is raised when a request id is in use for other content."""

    status_code = "ALREADY_EXISTS"
    reason = "REQUEST_CONFLICT"


class GenerationNotFoundError(FixRequestError):
    """Is raised when no generation has the given id."""

    status_code = "NOT_FOUND"
    reason = "GENERATION_NOT_FOUND"


class AlreadyAcknowledgedError(FixRequestError):
    """Is raised when a generation's result was acknowledged and released before."""

    status_code = "FAILED_PRECONDITION"
    reason = "ALREADY_ACKNOWLEDGED"


class ResultNotReadyError(FixRequestError):
    """Is raised when the result of an unfinished generation is asked for."""

    status_code = "FAILED_PRECONDITION"
    reason = "RESULT_NOT_READY"


class MethodNotAllowedError(FixRequestError):
    """Is raised when a method or a role is not in a worker's allow-list."""

    status_code = "PERMISSION_DENIED"
    reason = "METHOD_NOT_ALLOWED"


class AdapterNotFoundError(FixRequestError):
    """Is raised when a LoRA adapter is not resident or not found at its source."""

    status_code = "NOT_FOUND"
    reason = "ADAPTER_NOT_FOUND"


class InvalidCheckpointError(FixRequestError):
    """Is raised when a checkpoint is damaged, or not one of this request and pipeline."""

    reason = "INVALID_CHECKPOINT"


class CheckpointNotFoundError(FixRequestError):
    """Is raised when a generation has no checkpoint, or not the one that is asked for."""

    status_code = "NOT_FOUND"
    reason = "CHECKPOINT_NOT_FOUND"


class NotResumableError(FixRequestError):
    """Is raised when a generation can be neither parked nor saved in its state."""

    status_code = "FAILED_PRECONDITION"
    reason = "NOT_RESUMABLE"


class MessageTooLargeError(FixRequestError):
    """Is raised when a message is over the limit of the wire."""

    reason = "MESSAGE_TOO_LARGE"


class GiveUpError(KubediffusionError):
    """Is raised when neither waiting nor another worker nor another request would help."""

    reason = "GIVE_UP"


class PipelineError(GiveUpError):
    """Is raised when the pipeline's own code raised."""

    status_code = "INTERNAL"
    reason = "PIPELINE_ERROR"


class DeviceMemoryError(GiveUpError):
    """Is raised when the request does not fit into the memory of the device."""

    status_code = "RESOURCE_EXHAUSTED"
    reason = "DEVICE_OUT_OF_MEMORY"


class PoisonedError(GiveUpError):
    """Is raised when a generation is suspected to have killed several workers."""

    status_code = "ABORTED"
    reason = "POISONED"


class DeadlineExceededError(GiveUpError):
    """Is raised when the deadline of a generation has passed."""

    status_code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class GenerationCancelledError(GiveUpError):
    """Is raised when the result of a cancelled generation is asked for."""

    status_code = "CANCELLED"
    reason = "GENERATION_CANCELLED"


class StaleEpochError(GiveUpError):
    """Is raised when a newer start of the same engine has taken over."""

    status_code = "FAILED_PRECONDITION"
    reason = "STALE_EPOCH"


class NotImplementedByWorkerError(GiveUpError):
    """Is raised when the worker does not know or not offer the call."""

    status_code = "UNIMPLEMENTED"
    reason = "NOT_IMPLEMENTED"


class EvictedError(GiveUpError):
    """Is raised when a result was dropped before anybody fetched it."""

    status_code = "NOT_FOUND"
    reason = "RESULT_EVICTED"


class UntrustedPeerError(GiveUpError):
    """Is raised when the two ends do not agree on TLS or do not trust each other."""

    status_code = "UNAVAILABLE"
    reason = "TLS_FAILED"


class InternalError(GiveUpError):
    """Is raised for a defect of kubediffusion itself."""

    status_code = "INTERNAL"
    reason = "INTERNAL"


def _family(root: type[KubediffusionError]) -> Iterable[type[KubediffusionError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


ERROR_CLASSES: Mapping[str, type[KubediffusionError]] = {
    error_class.reason: error_class for error_class in _family(KubediffusionError)
}
"""Every class of this module by its reason."""

_GROUPS_BY_STATUS: Mapping[str, type[KubediffusionError]] = {
    "UNAVAILABLE": RetryElsewhereError,
    "DATA_LOSS": RetryElsewhereError,
    "RESOURCE_EXHAUSTED": WaitError,
    "INVALID_ARGUMENT": FixRequestError,
    "OUT_OF_RANGE": FixRequestError,
    "NOT_FOUND": FixRequestError,
    "ALREADY_EXISTS": FixRequestError,
    "FAILED_PRECONDITION": FixRequestError,
    "PERMISSION_DENIED": FixRequestError,
    "UNAUTHENTICATED": FixRequestError,
}


def rebuild(
    message: str,
    *,
    reason: str,
    status_code: str = "UNKNOWN",
    violations: Iterable[Violation] = (),
    retry_delay: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> KubediffusionError:
    """Makes the error of a reason, at the end that did not raise it.

    A reason that only a newer peer knows gives the group that fits the status code best, with
    the reason and the code as they came.
    """
    error_class = ERROR_CLASSES.get(reason)
    is_known = error_class is not None
    if error_class is None:
        error_class = _group(status_code, violations=bool(violations), retry_delay=retry_delay)
    error = error_class(message, violations=violations, retry_delay=retry_delay, metadata=metadata)
    if not is_known:
        error.reason = reason
        error.status_code = status_code
    return error


def _group(
    status_code: str, *, violations: bool, retry_delay: float | None
) -> type[KubediffusionError]:
    if retry_delay is not None:
        return WaitError
    if violations:
        return FixRequestError
    return _GROUPS_BY_STATUS.get(status_code, GiveUpError)


def to_message(error: KubediffusionError) -> "worker_pb2.Error":
    """Returns the form in which an error travels inside events and generations."""
    from kubediffusion_proto.v1 import worker_pb2

    message = worker_pb2.Error(
        reason=error.reason,
        message=error.message,
        violations=[
            worker_pb2.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ],
        metadata=error.metadata,
    )
    if error.retry_delay is not None:
        message.retry_delay.FromNanoseconds(round(error.retry_delay * 1e9))
    return message


def from_message(message: "worker_pb2.Error") -> KubediffusionError:
    """Returns the error that a message stands for."""
    retry_delay = None
    if message.HasField("retry_delay"):
        retry_delay = message.retry_delay.ToNanoseconds() / 1e9
    return rebuild(
        message.message,
        reason=message.reason,
        violations=[
            Violation(violation.field, violation.description) for violation in message.violations
        ],
        retry_delay=retry_delay,
        metadata=message.metadata,
    )

"""What can go wrong, by what the caller can do about it.

The tree of `kubediffusion_wire.errors`, and below it what concerns the engine alone:

    KubediffusionError
    ├── RetryElsewhereError         try again, best on another worker
    ├── WaitError                   try again later
    │   └── ResultTimeoutError      (a TimeoutError too) the generations go on
    ├── FixRequestError             change the request
    │   ├── ConfigError             change the configuration
    │   └── UnknownNameError        (an InvalidRequestError, TypeError and AttributeError
    │                               too) a request or configuration has no such field
    └── GiveUpError                 nothing that the caller does will help
        ├── JournalError            the engine's state cannot be read or written
        ├── ModelLoadError          a worker that the engine starts cannot serve its model
        └── EngineClosedError       the engine was closed
"""

from collections.abc import Iterable

from kubediffusion_wire.errors import (
    AdapterNotFoundError,
    AlreadyAcknowledgedError,
    CheckpointNotFoundError,
    CorruptDataError,
    DeadlineExceededError,
    DeviceMemoryError,
    EvictedError,
    FixRequestError,
    GenerationCancelledError,
    GenerationNotFoundError,
    GiveUpError,
    InternalError,
    InvalidCheckpointError,
    InvalidRequestError,
    KubediffusionError,
    MessageTooLargeError,
    MethodNotAllowedError,
    NotImplementedByWorkerError,
    NotResumableError,
    NoWorkerError,
    PipelineError,
    PoisonedError,
    QueueFullError,
    RequestConflictError,
    ResultNotReadyError,
    RetentionFullError,
    RetryElsewhereError,
    RpcTimeoutError,
    StaleEpochError,
    UntrustedPeerError,
    Violation,
    WaitError,
    WorkerDrainingError,
    WorkerFailedError,
    WorkerGoneError,
    WorkerStartingError,
)

__all__ = [
    "AdapterNotFoundError",
    "AlreadyAcknowledgedError",
    "CheckpointNotFoundError",
    "ConfigError",
    "CorruptDataError",
    "DeadlineExceededError",
    "DeviceMemoryError",
    "EngineClosedError",
    "EvictedError",
    "FixRequestError",
    "GenerationCancelledError",
    "GenerationNotFoundError",
    "GiveUpError",
    "InternalError",
    "InvalidCheckpointError",
    "InvalidRequestError",
    "JournalError",
    "KubediffusionError",
    "MessageTooLargeError",
    "MethodNotAllowedError",
    "ModelLoadError",
    "NoWorkerError",
    "NotImplementedByWorkerError",
    "NotResumableError",
    "PipelineError",
    "PoisonedError",
    "QueueFullError",
    "RequestConflictError",
    "ResultNotReadyError",
    "ResultTimeoutError",
    "RetentionFullError",
    "RetryElsewhereError",
    "RpcTimeoutError",
    "StaleEpochError",
    "UnknownNameError",
    "UntrustedPeerError",
    "Violation",
    "WaitError",
    "WorkerDrainingError",
    "WorkerFailedError",
    "WorkerGoneError",
    "WorkerStartingError",
]


class ResultTimeoutError(WaitError, TimeoutError):
    """Is raised when results were not there in time; their generations go on.

    Attributes:
        request_ids: What is unfinished; ask again with `engine.generation(id)`.
    """

    status_code = "DEADLINE_EXCEEDED"
    reason = "RESULT_TIMEOUT"

    def __init__(self, message: str, request_ids: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.request_ids = tuple(request_ids)


class ConfigError(FixRequestError):
    """Is raised when a configuration makes no sense."""

    reason = "INVALID_CONFIG"


class UnknownNameError(InvalidRequestError, TypeError, AttributeError):
    """Is raised when a request or a configuration is given a field that it does not have."""


class JournalError(GiveUpError):
    """Is raised when the engine's state cannot be opened, read or written."""

    status_code = "INTERNAL"
    reason = "JOURNAL_FAILED"


class EngineClosedError(GiveUpError):
    """Is raised when a closed engine is used, or one is closed during a call."""

    status_code = "CANCELLED"
    reason = "ENGINE_CLOSED"


class ModelLoadError(GiveUpError):
    """Is raised when a worker that the engine starts cannot load its model; says why."""

    status_code = "FAILED_PRECONDITION"
    reason = "MODEL_LOAD_FAILED"

"""What a worker is told: its model, its bounds, and where it can be reached."""

import dataclasses
import pathlib
from dataclasses import dataclass, field
from typing import Literal

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import addresses, channels, identifiers, registry, validation
from kubediffusion_worker import imports, lifecycle, model

CHECKPOINT_SECONDS = 2.0
PREVIEW_SECONDS = 1.0
DRAIN_SECONDS = 25.0
"""Kubernetes kills 30 seconds after SIGTERM by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSource:
    """A LoRA adapter that is loaded together with the model."""

    name: str
    source: str
    """A folder, a file or a hub id."""

    def __post_init__(self) -> None:
        """Refuse names that requests could not use.

        Raises:
            InvalidRequestError: It is none.
        """
        identifiers.check_identifier(self.name, field="lora")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestLimits:
    """Bounds on one request, before it can get near a device."""

    max_height: int = 4096
    """In pixels."""
    max_width: int = 4096
    """In pixels."""
    max_steps: int = 1000
    """What the longest training schedules of diffusers have."""
    max_frames: int = 1024
    max_outputs: int = 64
    max_prompt_bytes: int = 32_768
    """In bytes of UTF-8; text encoders read some hundred tokens."""

    def __post_init__(self) -> None:
        """Refuse bounds that would refuse everything, or mean "the default" on the wire."""
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value < 2**31:
                raise ValueError(f"{name} must be between 1 and 2147483647; found {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Of a worker's runtime, wherever it lives."""

    model: model.ModelConfig
    name: str = "worker"
    """How people and metrics call it; unique among the workers of one registry or pool."""
    adapters: tuple[AdapterSource, ...] = ()
    requests: RequestLimits = field(default_factory=RequestLimits)
    bounds: lifecycle.LifecycleConfig = field(default_factory=lifecycle.LifecycleConfig)
    checkpoint_seconds: float | None = CHECKPOINT_SECONDS
    """From one checkpoint of a running generation to the next; None: on drain and on request
    alone."""
    checkpoint_folder: pathlib.Path | None = None
    """Where checkpoints outlive the process; None: in memory alone."""
    import_limits: imports.ImportLimits = field(default_factory=imports.ImportLimits)
    preview_seconds: float = PREVIEW_SECONDS
    """From one preview of a generation to the next, while somebody looks; 0: none."""
    drain_seconds: float = DRAIN_SECONDS
    """The budget of a drain that names none."""
    tick_seconds: float = 0.25
    """Between two looks at deadlines, leases and ages."""

    def __post_init__(self) -> None:
        """Refuse names that no registry could hold.

        Raises:
            InvalidRequestError: It is none.
        """
        registry.check_name(self.name)
        if self.checkpoint_seconds is not None and self.checkpoint_seconds <= 0:
            raise ValueError("checkpoint_seconds must be positive, or None for never by time")
        if self.preview_seconds < 0:
            raise ValueError("preview_seconds must not be negative")

    def limits(self) -> worker_pb2.Limits:
        """Return the bounds as they are published."""
        limits = validation.default_limits()
        for name, value in dataclasses.asdict(self.requests).items():
            setattr(limits, name, value)
        limits.max_queued = self.bounds.line_limits.max_items
        limits.max_retained_bytes = self.bounds.retention_limits.max_bytes
        return limits


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessConfig:
    """Of a worker that is a process of its own."""

    worker: WorkerConfig
    listen: str = "127.0.0.1:0"
    """`host:port` or `unix:/path`."""
    tls: channels.TlsFiles | None = None
    insecure: bool = False
    """Allows plaintext from other machines."""
    http: str = ""
    """`host:port` of probes and metrics; empty: none."""
    registry: pathlib.Path | None = None
    """The folder in which the worker makes itself known; None: it does not."""
    grace: float = DRAIN_SECONDS
    """Seconds that a SIGTERM leaves for finishing or handing over."""
    parent_fd: int | None = None
    """A pipe whose end means that the parent is gone, so that the worker must go too."""
    threads: int | None = None
    """CPU threads of torch; None: torch decides."""
    log_format: Literal["json", "text"] = "json"
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        """Refuse addresses that nobody could listen on.

        Raises:
            InvalidRequestError: It is none.
        """
        addresses.parse(self.listen, field="listen")
        if self.http and addresses.parse(self.http, field="http").is_unix:
            raise ValueError(f"http must be host:port; found {self.http!r}")
        if self.grace < 0:
            raise ValueError(f"grace must not be negative; found {self.grace}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be positive; found {self.threads}")

"""How long a link waits for an answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds after which an unanswered call fails with `RpcTimeoutError`."""

    describe: float = 5.0
    """GetWorker; short, because it also tells whether a worker is there."""

    submit: float = 30.0
    """SubmitGeneration, which may carry images of some megabytes."""

    control: float = 10.0
    """What the worker answers from memory: acknowledge, cancel, pause, list adapters."""

    method: float = 60.0
    """CallMethod, where its caller sets no other."""

    adapter: float = 600.0
    """LoadAdapter, which may download and has to wait for a running generation."""

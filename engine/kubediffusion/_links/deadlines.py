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

    checkpoint: float = 300.0
    """TakeCheckpoint, which has to wait for the end of a step."""

    upload: float = 120.0
    """ImportCheckpoint, and a second more for each megabyte."""

    method: float = 60.0
    """CallMethod, where its caller sets no other."""

    adapter: float = 600.0
    """LoadAdapter, which may download and has to wait for a running generation."""

    def upload_of(self, data: bytes | bytearray | memoryview) -> float:
        """Return the deadline of an upload."""
        return self.upload + memoryview(data).nbytes / 1_000_000

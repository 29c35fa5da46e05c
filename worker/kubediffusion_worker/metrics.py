"""The worker's Prometheus metrics: base units, and labels with few values only."""

import prometheus_client
from prometheus_client import registry

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors
from kubediffusion_worker import generation, lifecycle

_STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WAIT_BUCKETS = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
_STATES = tuple(state.name.lower() for state in generation.State)
_WORKER_STATES = tuple(
    name.removeprefix("WORKER_STATE_").lower() for name in worker_pb2.WorkerState.keys()[1:]
)


# When a series was made is of no use here, and doubles their number.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types


class Metrics:
    """All metrics of one worker; thread-safe."""

    def __init__(self) -> None:
        self.registry = registry.CollectorRegistry()
        self.steps = self._counter("steps", "Denoising steps that were computed.")
        self.step_seconds = self._histogram("step", "Of one denoising step.", _STEP_BUCKETS)
        self.queue_seconds = self._histogram("queue", "From submit to start.", _WAIT_BUCKETS)
        self.compute_seconds = self._histogram(
            "compute", "From start to the pipeline's output.", _WAIT_BUCKETS
        )
        self.encode_seconds = self._histogram(
            "encode", "From the pipeline's output to bytes.", _STEP_BUCKETS
        )
        self.checkpoint_seconds = self._histogram(
            "checkpoint", "From the state of a run to the bytes of a checkpoint.", _STEP_BUCKETS
        )
        self.checkpoints = self._counter("checkpoints", "That were taken and kept in memory.")
        self.checkpoints_written = self._counter("checkpoints_written", "To the folder.")
        self.checkpoint_failures = self._counter(
            "checkpoint_failures", "Checkpoints that were not kept, by where.", "sink"
        )
        self.checkpoint_bytes = self._gauge("checkpoint_bytes", "Of checkpoints in memory.")
        self.resumed = self._counter(
            "generations_resumed",
            "That went on from a checkpoint, by result.",
            "exactness",
        )
        self.ended = self._counter("generations_ended", "By how they ended.", "state")
        self.held = self._gauge("generations", "That the worker holds, by state.", "state")
        self.errors = self._counter("errors", "Failures and refusals by reason.", "reason")
        self.queue_length = self._gauge("queue_length", "Generations that wait.")
        self.queued_bytes = self._gauge("queued_bytes", "Of waiting specifications.")
        self.retained_bytes = self._gauge("retained_bytes", "Of results that are kept.")
        self.watches = self._gauge("watches", "Open watch streams.")
        self.memory = self._gauge("memory_bytes", "In use, by where and how.", "kind")
        self.state = self._gauge("state", "1 for the worker's state, 0 for others.", "state")
        self._build = self._gauge(
            "build_info", "Always 1.", "version", "model", "pipeline", "dtype"
        )

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def count_error(self, error: errors.KubediffusionError) -> None:
        """Count a failure or a refusal; unknown reasons are one, so that they stay few."""
        reason = error.reason if error.reason in errors.ERROR_CLASSES else "OTHER"
        self.errors.labels(reason).inc()

    def count_end(self, found: generation.Generation) -> None:
        """Count a generation that has ended."""
        self.ended.labels(found.state.name.lower()).inc()
        if found.error is not None:
            self.count_error(found.error)
        if found.result is not None:
            self.compute_seconds.observe(found.result.metrics.compute_seconds)
            self.encode_seconds.observe(found.result.metrics.encode_seconds)

    def describe(self, model: worker_pb2.Model, version: str) -> None:
        """Say what is served."""
        self._build.clear()
        self._build.labels(version, model.id, model.pipeline, model.dtype).set(1)

    def look(self, machine: lifecycle.Lifecycle, watches: int) -> None:
        """Take the gauges from the state machine; on its own thread."""
        counts = dict.fromkeys(_STATES, 0)
        for found in machine.generations.values():
            counts[found.state.name.lower()] += 1
        for state, count in counts.items():
            self.held.labels(state).set(count)
        for state in _WORKER_STATES:
            number = worker_pb2.WorkerState.Value(f"WORKER_STATE_{state.upper()}")
            self.state.labels(state).set(machine.worker_state == number)
        self.queue_length.set(len(machine.line))
        self.queued_bytes.set(machine.line.size)
        self.retained_bytes.set(machine.shelf.bytes)
        self.checkpoint_bytes.set(machine.saved.bytes)
        self.watches.set(watches)

    def _counter(self, name: str, text: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(_full(name), text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(_full(name), text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...]
    ) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            _full(f"{name}_seconds"), text, buckets=buckets, registry=self.registry
        )


def _full(name: str) -> str:
    return f"kubediffusion_worker_{name}"

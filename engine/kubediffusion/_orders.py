"""From what a user gives to orders that can be taken: everything is checked here."""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion import _output, _placement, _record, _request, _specification, errors
from kubediffusion_wire import identifiers, validation

if TYPE_CHECKING:
    from kubediffusion import _settings
    from kubediffusion_proto.v1 import worker_pb2

    Given = _request.OmniDiffusionRequest | Mapping[str, Any] | str


def make(
    given: Given,
    settings: _settings.EngineSettings,
    workers: Sequence[worker_pb2.Worker],
) -> _record.Order:
    """Check a request against everything that is known.

    Args:
        given: A request, its fields, or its prompt.
        settings: Of the engine.
        workers: Those within reach; what they accept is checked where they tell it.

    Raises:
        InvalidRequestError: Names every field that is wrong.
        MessageTooLargeError: It does not fit on the wire.
    """
    request = _request.OmniDiffusionRequest.of(given)
    request_id = request.request_id
    if not isinstance(request_id, str):
        raise errors.InvalidRequestError.at("request_id", "must be a text")
    if request_id:
        identifiers.check_request_id(request_id)
    if request.output_type == "pt" and importlib.util.find_spec("torch") is None:
        raise errors.InvalidRequestError.at("output_type", _output.TORCH_MISSING)
    spec = request.to_spec(settings.default_adapters)
    check(spec, settings.model, workers)
    deadline = _specification.deadline(request, datetime.datetime.now(datetime.UTC))
    return _record.Order(
        request_id=request_id or identifiers.new_request_id(),
        spec=spec,
        digest=identifiers.spec_digest(spec),
        size=spec.ByteSize(),
        priority=_specification.priority(request),
        deadline=None if deadline is None else deadline.timestamp(),
        min_exactness=_specification.min_exactness(request),
        output_type=request.output_type,
        is_anonymous=not request_id,
    )


def check(
    spec: worker_pb2.GenerationSpec, model: str, workers: Sequence[worker_pb2.Worker]
) -> None:
    """Refuse a specification that no worker within reach would take.

    Raises:
        InvalidRequestError: Names every field that is wrong.
    """
    wanted = spec.model or model
    fitting = [worker for worker in workers if _placement.serves(worker.model.id, wanted)]
    if workers and not fitting:
        served = ", ".join(sorted({repr(worker.model.id) for worker in workers}))
        raise errors.InvalidRequestError.at(
            "model", f"must be one that a worker serves, {served}; found {wanted!r}"
        )
    violations: list[errors.Violation] = []
    for worker in fitting:
        found = validation.check_spec(spec, worker.parameters, worker.limits)
        if not found:
            return
        violations = violations or found
    if not fitting:
        violations = validation.check_spec(spec, (), validation.default_limits())
    if violations:
        raise errors.InvalidRequestError.of(violations)

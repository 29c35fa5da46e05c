"""The trace that a call belongs to, by W3C Trace Context (https://www.w3.org/TR/trace-context/).

Callers send it as gRPC metadata; logs carry its id, so that a request can be followed from
an application's own traces into the worker.
"""

import contextvars
import re
from collections.abc import Iterable

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE = "0" * 32

current_trace: contextvars.ContextVar[str] = contextvars.ContextVar("current_trace", default="")
"""The trace id of the call that is being answered; empty where it has none."""


def trace_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Find the trace id in a call's metadata; empty where there is no valid one."""
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            match = _TRACEPARENT.fullmatch(value)
            if match and match[1] != _NO_TRACE and not value.startswith("ff"):
                return match[1]
    return ""

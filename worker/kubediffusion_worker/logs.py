"""Structured logs: one line a record, constant messages, facts beside them.

Prompts, pictures and secrets never get into a log: whoever logs names ids and numbers.
"""

import json
import logging
import queue
import sys
import threading
import time
from typing import Any, Literal, TextIO

from kubediffusion_worker import tracing

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": f"{_time(record)}.{record.msecs:03.0f}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Formats a record for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        facts = " ".join(f"{name}={value}" for name, value in _facts(record).items())
        return f"{_time(record)} {record.levelname} {record.getMessage()} {facts}".rstrip()


class LineWriter(logging.Handler):
    """Writes lines from a thread of its own.

    Whoever logs never waits: if nobody reads the stream, a worker must not stop answering.
    Lines beyond the bound are dropped and counted.
    """

    def __init__(self, stream: TextIO, max_lines: int = 10_000) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(max_lines)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record, here and now, and let it be written."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def finish(self, timeout: float) -> None:
        """Write what there is, as far as that is possible within some seconds."""
        try:
            self._lines.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _write(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                self._stream.write(f"{line}\n{self._losses()}")
                self._stream.flush()
        except (OSError, ValueError):
            return  # The stream is closed: nobody reads any more.

    def _losses(self) -> str:
        """Return a line about lines that were dropped, if there were any."""
        count, self._dropped = self._dropped, 0
        if not count:
            return ""
        facts = {"msg": "Log lines were dropped", "count": count, "levelname": "WARNING"}
        return f"{self.format(logging.makeLogRecord(facts))}\n"


def configure(
    style: Literal["json", "text"], level: str, stream: TextIO | None = None
) -> LineWriter:
    """Let this process log to a stream, standard error by default.

    Libraries log warnings and worse; gRPC's own complaints about what clients send are
    shown at level DEBUG alone, so that nobody can fill a log from outside.

    Args:
        style: How lines look.
        level: Of kubediffusion's own records.
        stream: Where to; None: standard error.

    Returns:
        What writes the lines; `finish` it at the end.
    """
    handler = LineWriter(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    for name in ("kubediffusion_worker", "kubediffusion_wire"):
        logging.getLogger(name).setLevel(level)
    if level != "DEBUG":
        logging.getLogger("grpc").setLevel(logging.CRITICAL)
    return handler


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))


def _facts(record: logging.LogRecord) -> dict[str, Any]:  # whatever was given as extra
    facts = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    trace = tracing.current_trace.get()
    if trace:
        facts.setdefault("trace_id", trace)
    if record.exc_info and record.exc_info[1] is not None:
        # Type and place, never the text: it may quote what a user sent.
        facts["error"] = type(record.exc_info[1]).__qualname__
        facts["place"] = _place(record.exc_info[1])
    return facts


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from kubediffusion_worker import logs, tracing


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    levels = {
        name: logging.getLogger(name).level
        for name in ("grpc", "kubediffusion_worker", "kubediffusion_wire")
    }
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = before[0], before[1]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def logged(
    act: Callable[[logging.Logger], object], style: str = "json", level: str = "INFO"
) -> str:
    """Return what is written while something logs."""
    stream = io.StringIO()
    writer = logs.configure(style, level, stream)  # type: ignore[arg-type] # one of two texts
    act(logging.getLogger("kubediffusion_worker.x"))
    writer.finish(60.0)
    return stream.getvalue()


def test_a_record_is_one_object_with_its_facts() -> None:
    facts = {"request_id": "a", "event": "started"}
    line = json.loads(logged(lambda logger: logger.info("Generation changed", extra=facts)))
    assert line["message"] == "Generation changed"
    assert (line["request_id"], line["event"], line["level"]) == ("a", "started", "INFO")


def test_text_for_people_has_the_facts_too() -> None:
    text = logged(lambda logger: logger.warning("It is full", extra={"cause": "disk"}), "text")
    assert "WARNING It is full cause=disk" in text


def test_an_error_shows_type_and_place_but_not_its_text() -> None:
    def fail(logger: logging.Logger) -> None:
        try:
            raise ValueError("a secret prompt")
        except ValueError:
            logger.exception("It failed")

    text = logged(fail)
    assert json.loads(text)["error"] == "ValueError"
    assert "test_worker_logs.py" in json.loads(text)["place"]
    assert "secret" not in text


def test_the_trace_of_the_call_is_in_every_line() -> None:
    def call(logger: logging.Logger) -> None:
        token = tracing.current_trace.set("abc")
        logger.info("x")
        tracing.current_trace.reset(token)

    assert json.loads(logged(call))["trace_id"] == "abc"


def test_grpc_is_quiet_unless_one_debugs() -> None:
    def complain(logger: logging.Logger) -> None:
        logging.getLogger("grpc._cython.cygrpc").error("what a client sent")

    assert logged(complain) == ""
    logging.getLogger("grpc").setLevel(logging.NOTSET)
    assert logged(complain, level="DEBUG") != ""


def test_libraries_are_heard_from_warnings_on() -> None:
    library = logging.getLogger("some.library")
    assert logged(lambda logger: library.info("chatter")) == ""
    assert "trouble" in logged(lambda logger: library.warning("trouble"))


class Stuck(io.StringIO):
    """A stream that nobody reads for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = threading.Event()

    def write(self, text: str, /) -> int:
        assert self.is_read.wait(60.0)
        return super().write(text)


def test_a_stream_that_nobody_reads_holds_up_nobody() -> None:
    stream = Stuck()
    writer = logs.LineWriter(stream, max_lines=3)
    for number in range(100):
        writer.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    writer.finish(timeout=0.0)
    stream.is_read.set()
    writer.finish(60.0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "line 0"
    assert "Log lines were dropped" in lines
    assert len(lines) < 10

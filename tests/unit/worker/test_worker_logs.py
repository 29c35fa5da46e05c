import io
import json
import logging
from collections.abc import Iterator

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
    root.handlers[:], root.level = before[0], before[1]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def logged(style: str, *, level: str = "INFO") -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logs.configure(style, level, stream)  # type: ignore[arg-type] # one of two texts
    return logging.getLogger("kubediffusion_worker.x"), stream


def test_a_record_is_one_object_with_its_facts() -> None:
    logger, stream = logged("json")
    logger.info("Generation changed", extra={"request_id": "a", "event": "started"})
    line = json.loads(stream.getvalue())
    assert line["message"] == "Generation changed"
    assert (line["request_id"], line["event"], line["level"]) == ("a", "started", "INFO")


def test_text_for_people_has_the_facts_too() -> None:
    logger, stream = logged("text")
    logger.warning("Registry cannot be written to", extra={"cause": "full"})
    assert "WARNING Registry cannot be written to cause=full" in stream.getvalue()


def test_an_error_shows_type_and_place_but_not_its_text() -> None:
    logger, stream = logged("json")
    try:
        raise ValueError("a secret prompt")
    except ValueError:
        logger.exception("It failed")
    line = json.loads(stream.getvalue())
    assert line["error"] == "ValueError"
    assert "test_worker_logs.py" in line["place"]
    assert "secret" not in stream.getvalue()


def test_the_trace_of_the_call_is_in_every_line() -> None:
    logger, stream = logged("json")
    token = tracing.current_trace.set("abc")
    logger.info("x")
    tracing.current_trace.reset(token)
    assert json.loads(stream.getvalue())["trace_id"] == "abc"


def test_grpc_is_quiet_unless_one_debugs() -> None:
    _, stream = logged("json")
    logging.getLogger("grpc._cython.cygrpc").error("what a client sent")
    assert stream.getvalue() == ""
    _, stream = logged("json", level="DEBUG")
    logging.getLogger("grpc").setLevel(logging.NOTSET)
    logging.getLogger("grpc._cython.cygrpc").error("what a client sent")
    assert stream.getvalue() != ""


def test_libraries_are_heard_from_warnings_on() -> None:
    _, stream = logged("json")
    logging.getLogger("some.library").info("chatter")
    assert stream.getvalue() == ""
    logging.getLogger("some.library").warning("trouble")
    assert "trouble" in stream.getvalue()

import pytest

from kubediffusion_worker import tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_the_trace_id_is_taken_from_the_metadata() -> None:
    metadata = [("user-agent", "x"), ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")]
    assert tracing.trace_id(metadata) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        "garbage",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        b"00-binary",
    ],
)
def test_an_invalid_trace_counts_as_none(value: str | bytes) -> None:
    assert tracing.trace_id([("traceparent", value)]) == ""

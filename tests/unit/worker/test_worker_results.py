import hashlib

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import chunks, errors
from kubediffusion_worker import results, runs, testing

ABOUT = results.Circumstances(fingerprint="f", queue_seconds=1.5)


def an_output(data: bytes, **fields: object) -> runs.OutputData:
    given: dict[str, object] = {
        "kind": worker_pb2.OUTPUT_KIND_ARRAY,
        "encoding": worker_pb2.ENCODING_RAW,
        "dtype": "uint8",
        "shape": (len(data),),
        "data": data,
        "seed": 7,
        **fields,
    }
    return runs.OutputData(**given)  # type: ignore[arg-type] # by name


def a_blob(*outputs: runs.OutputData) -> results.Blob:
    outcome = runs.RunOutcome(
        outputs=outputs,
        steps=4,
        compute_seconds=2.0,
        step_seconds=0.5,
        peak_memory_bytes=9,
        exactness=worker_pb2.EXACTNESS_CLOSE,
        resumed_from=3,
    )
    return results.build(outcome, worker_pb2.OutputOptions(), ABOUT, testing.encode_raw)


def test_outputs_lie_one_after_the_other() -> None:
    blob = a_blob(an_output(b"abc"), an_output(b"defgh"))
    assert bytes(blob.data) == b"abcdefgh"
    assert [(each.offset, each.size) for each in blob.result.outputs] == [(0, 3), (3, 5)]
    assert blob.result.sha256 == hashlib.sha256(b"abcdefgh").hexdigest()
    assert blob.result.outputs[1].sha256 == hashlib.sha256(b"defgh").hexdigest()


def test_one_output_is_not_copied() -> None:
    data = b"abc"
    assert a_blob(an_output(data)).data.obj is data


def test_a_result_tells_how_it_came_about() -> None:
    result = a_blob(an_output(b"abc", is_flagged=True, name="images")).result
    assert (result.exactness, result.resumed_from) == (worker_pb2.EXACTNESS_CLOSE, 3)
    assert (result.fingerprint, result.metrics.queue_seconds) == ("f", 1.5)
    assert (result.metrics.steps, result.metrics.step_seconds) == (4, 0.5)
    assert (result.outputs[0].is_flagged, result.outputs[0].name) == (True, "images")
    assert result.outputs[0].dtype == worker_pb2.DATA_TYPE_UINT8


def test_an_encoded_output_has_no_type_of_elements() -> None:
    png = an_output(b"abc", encoding=worker_pb2.ENCODING_PNG, dtype="", shape=())
    assert a_blob(png).result.outputs[0].dtype == worker_pb2.DATA_TYPE_UNSPECIFIED


def test_a_result_without_outputs_is_empty() -> None:
    blob = a_blob()
    assert (blob.result.size, len(list(results.messages(blob, 0)))) == (0, 1)


@pytest.mark.parametrize("offset", [0, 1, 1_000_000, 2_500_000])
def test_a_result_is_read_in_chunks_from_any_offset(offset: int) -> None:
    data = bytes(range(250)) * 10_000
    header, *frames = results.messages(a_blob(an_output(data)), offset)
    assert isinstance(header, worker_pb2.FetchResultResponse)
    assert header.header.size == len(data)
    read = b"".join(chunks.parse_data(frame) for frame in frames if isinstance(frame, bytes))
    assert read == data[offset:]
    assert all(len(frame) <= 1_000_010 for frame in frames if isinstance(frame, bytes))


@pytest.mark.parametrize("offset", [-1, 4])
def test_an_offset_outside_of_the_result_is_refused(offset: int) -> None:
    with pytest.raises(errors.InvalidRequestError, match="offset must be from 0 to 3"):
        list(results.messages(a_blob(an_output(b"abc")), offset))

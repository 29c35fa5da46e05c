import copy
import inspect
import subprocess
import sys

import grpc
import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

ALL_CLASSES = sorted(errors.ERROR_CLASSES.values(), key=lambda error_class: error_class.reason)
GROUPS = (
    errors.RetryElsewhereError,
    errors.WaitError,
    errors.FixRequestError,
    errors.GiveUpError,
)


def full(error_class: type[errors.KubediffusionError]) -> errors.KubediffusionError:
    return error_class(
        "wanted this; found that",
        violations=[errors.Violation("height", "must be 1 or more; found -8")],
        retry_delay=1.5,
        metadata={"worker": "w0"},
    )


def facts(error: errors.KubediffusionError) -> tuple[object, ...]:
    return (
        type(error),
        error.reason,
        error.message,
        str(error),
        error.violations,
        error.retry_delay,
        dict(error.metadata),
    )


def test_every_class_of_the_module_is_in_the_table_once() -> None:
    classes = {
        item
        for _, item in inspect.getmembers(errors, inspect.isclass)
        if issubclass(item, errors.KubediffusionError)
    }
    assert set(errors.ERROR_CLASSES.values()) == classes
    assert len(errors.ERROR_CLASSES) == len(classes)


def test_no_two_classes_share_code_and_reason() -> None:
    pairs = {(item.status_code, item.reason) for item in ALL_CLASSES}
    assert len(pairs) == len(ALL_CLASSES)


@pytest.mark.parametrize("error_class", ALL_CLASSES)
def test_the_code_is_one_of_grpc_and_the_reason_is_upper_snake_case(
    error_class: type[errors.KubediffusionError],
) -> None:
    assert error_class.status_code in grpc.StatusCode.__members__
    assert error_class.status_code != "OK"
    assert error_class.reason.replace("_", "").isalpha()
    assert error_class.reason == error_class.reason.upper()


@pytest.mark.parametrize("error_class", ALL_CLASSES)
def test_every_class_but_the_root_belongs_to_one_group(
    error_class: type[errors.KubediffusionError],
) -> None:
    groups = [group for group in GROUPS if issubclass(error_class, group)]
    assert len(groups) == (0 if error_class is errors.KubediffusionError else 1)


@pytest.mark.parametrize("error_class", ALL_CLASSES)
def test_the_tree_in_the_docstring_names_every_class(
    error_class: type[errors.KubediffusionError],
) -> None:
    assert error_class.__name__ in (errors.__doc__ or "").split()


@pytest.mark.parametrize("error_class", ALL_CLASSES)
def test_an_error_survives_the_message_whole(
    error_class: type[errors.KubediffusionError],
) -> None:
    error = full(error_class)
    data = errors.to_message(error).SerializeToString()
    assert facts(errors.from_message(worker_pb2.Error.FromString(data))) == facts(error)


def test_a_bare_error_survives_the_message() -> None:
    error = errors.WorkerGoneError("gone")
    assert facts(errors.from_message(errors.to_message(error))) == facts(error)


@pytest.mark.parametrize("error_class", ALL_CLASSES)
def test_an_error_can_be_copied(error_class: type[errors.KubediffusionError]) -> None:
    error = full(error_class)
    assert facts(copy.copy(error)) == facts(error)


@pytest.mark.parametrize(
    ("status_code", "group"),
    [
        ("UNAVAILABLE", errors.RetryElsewhereError),
        ("RESOURCE_EXHAUSTED", errors.WaitError),
        ("INVALID_ARGUMENT", errors.FixRequestError),
        ("NOT_FOUND", errors.FixRequestError),
        ("INTERNAL", errors.GiveUpError),
        ("SOME_CODE_OF_THE_FUTURE", errors.GiveUpError),
    ],
)
def test_an_unknown_reason_gives_the_group_of_its_status_code(
    status_code: str, group: type[errors.KubediffusionError]
) -> None:
    error = errors.rebuild("new trouble", reason="NEW_REASON", status_code=status_code)
    assert type(error) is group
    assert (error.reason, error.status_code) == ("NEW_REASON", status_code)
    assert error.message == "new trouble"


def test_an_unknown_reason_with_a_delay_asks_to_wait() -> None:
    error = errors.rebuild(
        "new trouble", reason="NEW_REASON", status_code="UNAVAILABLE", retry_delay=2.0
    )
    assert type(error) is errors.WaitError


def test_an_unknown_reason_with_violations_asks_to_fix_the_request() -> None:
    message = worker_pb2.Error(reason="NEW_REASON", message="new trouble")
    message.violations.add(field="width", description="must be even")
    assert type(errors.from_message(message)) is errors.FixRequestError


def test_an_unknown_reason_survives_being_passed_on() -> None:
    message = worker_pb2.Error(reason="NEW_REASON", message="new trouble", metadata={"a": "b"})
    assert errors.to_message(errors.from_message(message)) == message


def test_an_unknown_reason_leaves_the_classes_alone() -> None:
    errors.rebuild("new trouble", reason="NEW_REASON", status_code="UNAVAILABLE")
    assert errors.RetryElsewhereError.reason == "RETRY_ELSEWHERE"


def test_an_error_of_the_request_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="height must be 1 or more"):
        raise errors.InvalidRequestError.at("height", "must be 1 or more; found -8")


def test_a_call_that_took_too_long_is_a_timeout_error() -> None:
    with pytest.raises(TimeoutError, match=r"^no answer within 5 seconds$"):
        raise errors.RpcTimeoutError("no answer within 5 seconds")


def test_many_violations_make_one_error_that_names_the_first() -> None:
    violations = [
        errors.Violation("height", "must be 1 or more; found -8"),
        errors.Violation("width", "must be 1 or more; found 0"),
    ]
    error = errors.InvalidRequestError.of(violations)
    assert str(error) == "height must be 1 or more; found -8 (and 1 more)"
    assert error.violations == tuple(violations)


def test_importing_the_errors_loads_neither_grpc_nor_protobuf() -> None:
    program = (
        "import sys, kubediffusion_wire.errors; "
        "print([name for name in ('grpc', 'google.protobuf', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

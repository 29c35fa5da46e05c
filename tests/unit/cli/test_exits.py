import pytest

from kubediffusion import errors as engine_errors
from kubediffusion.cli import exits
from kubediffusion_wire import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PipelineError("it raised"), exits.ExitCode.FAILED),
        (errors.GenerationCancelledError("stopped"), exits.ExitCode.FAILED),
        (errors.InvalidRequestError("no such parameter"), exits.ExitCode.INVALID),
        (errors.GenerationNotFoundError("not there"), exits.ExitCode.INVALID),
        (engine_errors.ConfigError("no such backend"), exits.ExitCode.INVALID),
        (errors.NoWorkerError("none"), exits.ExitCode.UNREACHABLE),
        (errors.WorkerGoneError("gone"), exits.ExitCode.UNREACHABLE),
        (errors.RpcTimeoutError("silent"), exits.ExitCode.UNREACHABLE),
        (errors.UntrustedPeerError("wrong certificate"), exits.ExitCode.UNREACHABLE),
        (TimeoutError(), exits.ExitCode.TIMEOUT),
        (engine_errors.ResultTimeoutError("late"), exits.ExitCode.TIMEOUT),
        (errors.DeadlineExceededError("late"), exits.ExitCode.TIMEOUT),
        (KeyboardInterrupt(), exits.ExitCode.INTERRUPTED),
        (RuntimeError("a bug"), exits.ExitCode.FAILED),
    ],
)
def test_the_exit_code_says_what_the_caller_can_do(error, code):
    assert exits.code_for(error) is code


def test_an_error_names_its_reason_its_fields_and_a_way_out():
    error = errors.NoWorkerError(
        "nobody is there", violations=[errors.Violation("extra_args.x", "is unknown")]
    )
    assert exits.explain(error) == (
        "Error: nobody is there (NO_WORKER)",
        "  extra_args.x: is unknown",
        "  hint: start one with `kubediffusion worker start`, or name one with --workers",
    )


def test_a_field_that_the_message_tells_is_not_told_twice():
    error = errors.InvalidRequestError.at("steps", "must be 1 or more; found 0")
    assert sum("must be 1 or more" in line for line in exits.explain(error)) == 1


def test_an_unforeseen_error_says_its_type_and_how_to_see_more():
    first, second = exits.explain(RuntimeError("a bug"))
    assert first == "Error: a bug"
    assert "RuntimeError" in second
    assert "KUBEDIFFUSION_DEBUG" in second


def test_an_error_without_a_text_says_its_type():
    assert exits.explain(TimeoutError()) == ("Error: TimeoutError",)

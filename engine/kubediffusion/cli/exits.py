"""Exit codes, and what a failure says before the process ends with one."""

import enum
from collections.abc import Iterator

from kubediffusion_wire import errors


class ExitCode(enum.IntEnum):
    """What the process's exit status means."""

    OK = 0
    FAILED = 1
    INVALID = 2
    UNREACHABLE = 3
    TIMEOUT = 4
    INTERRUPTED = 130


EPILOG = """\
Exit codes:
  0    done
  1    a generation failed or was cancelled
  2    the command or the request is wrong
  3    no worker can be reached
  4    it took longer than --timeout
  130  interrupted

With KUBEDIFFUSION_DEBUG=1 an error shows its traceback."""

_HINTS = {
    "NO_WORKER": "start one with `kubediffusion worker start`, or name one with --workers",
    "WORKER_GONE": "see which workers answer with `kubediffusion workers`",
    "GENERATION_NOT_FOUND": "see what the workers hold with `kubediffusion list`",
    "CHECKPOINT_NOT_FOUND": "take one with `kubediffusion checkpoint`, without --newest",
    "NOT_RESUMABLE": "see what it is doing with `kubediffusion list`",
    "RESULT_NOT_READY": "follow it with `kubediffusion watch`, or wait with `fetch --wait`",
    "QUEUE_FULL": "wait for the queue to shrink, or start more workers",
    "RETENTION_FULL": "fetch and acknowledge results that the workers keep",
    "WORKER_STARTING": "the model is still loading: try again in some seconds",
    "TLS_FAILED": "check certificates and the address",
}


_CODES: tuple[tuple[tuple[type[BaseException], ...], ExitCode], ...] = (
    # The order matters: a worker too slow to answer a call counts as unreachable, a result
    # that was not there in time as a timeout.
    ((errors.RetryElsewhereError,), ExitCode.UNREACHABLE),
    ((TimeoutError, errors.DeadlineExceededError), ExitCode.TIMEOUT),
    ((errors.WaitError, errors.UntrustedPeerError), ExitCode.UNREACHABLE),
    ((ValueError, TypeError), ExitCode.INVALID),
    ((KeyboardInterrupt,), ExitCode.INTERRUPTED),
)


def code_for(error: BaseException) -> ExitCode:
    """Choose the exit code of a failure by what the caller can do about it."""
    for classes, code in _CODES:
        if isinstance(error, classes):
            return code
    return ExitCode.FAILED


def explain(error: BaseException) -> tuple[str, ...]:
    """Say what went wrong: a line with the reason, one for each field, and a hint."""
    return tuple(_lines(error))


def _lines(error: BaseException) -> Iterator[str]:
    if not isinstance(error, errors.KubediffusionError):
        yield f"Error: {str(error) or type(error).__name__}"
        if not isinstance(error, OSError | ValueError):
            yield f"  {type(error).__name__}; KUBEDIFFUSION_DEBUG=1 shows the traceback"
        return
    yield f"Error: {error.message} ({error.reason})"
    for violation in error.violations:
        if violation.description not in error.message:
            yield f"  {violation.field}: {violation.description}"
    if hint := _HINTS.get(error.reason):
        yield f"  hint: {hint}"

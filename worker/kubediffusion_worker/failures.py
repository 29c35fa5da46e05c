"""What the exceptions of pipelines and devices mean, in our own errors.

A new error is made of texts alone: the pipeline's exception holds its frames, and they hold the
tensors of the failed run.
"""

import re
from collections.abc import Collection

from kubediffusion_wire import errors, validation
from kubediffusion_worker import runs

_MEMORY_TYPES = ("OutOfMemoryError", "MemoryError")
_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# After these a CUDA context computes no more: every later call gives the same error.
_STICKY_TEXTS = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "invalid address space",
    "invalid program counter",
    "hardware stack error",
    "unspecified launch failure",
    "launch timed out",
    "uncorrectable ECC",
    "Invalid access of peer GPU memory",
    "device-side stack overflow",
    "context is destroyed",
    "CUDA error: unknown error",
    "GPU is lost",
)
_TENSOR = re.compile(r"\b(tensor|array)\(.*?(\)|$)")
_MAX_TEXT = 500
_WINDOW = 16


def translate(
    error: Exception,
    *,
    secrets: Collection[str],
    parameters: Collection[str],
    given: Collection[str],
    has_computed: bool,
) -> Exception:
    """Returns the error that stands for an exception of a pipeline's call.

    Args:
        error: What came out of the call.
        secrets: Texts of the request, which must not be in the error's message.
        parameters: Names of all parameters of the call.
        given: Names of those that the request has set.
        has_computed: Whether the call has come to its first module or step; a ValueError
            before that is the pipeline's check of its arguments.
    """
    name, text = type(error).__name__, str(error)
    if name in _MEMORY_TYPES or any(each in text for each in _MEMORY_TEXTS):
        return errors.DeviceMemoryError(
            "the generation must fit into the device's memory; found too little of it; ask for "
            "a smaller size or fewer frames",
            metadata={"exception": name},
        )
    if any(each in text for each in _STICKY_TEXTS):
        return runs.StickyDeviceError(f"the device has failed: {_first_line(text)}")
    message = _without_secrets(text, secrets)
    if isinstance(error, ValueError) and not has_computed:
        return _refused(message, parameters=parameters, given=given)
    return errors.PipelineError(
        f"the pipeline raised {name}: {message}", metadata={"exception": name}
    )


def _refused(
    message: str, *, parameters: Collection[str], given: Collection[str]
) -> errors.InvalidRequestError:
    """Makes an error that names the fields which the text names."""
    words = set(re.findall(r"\w+", message))
    named = sorted(words & set(parameters))
    fields = [name for name in named if name in given] or named or ["spec"]
    description = f"was refused by the pipeline: {message}"
    return errors.InvalidRequestError.of(
        [errors.Violation(field_of(name), description) for name in fields]
    )


def field_of(parameter: str) -> str:
    """Returns the field of the specification that stands for a parameter of the call."""
    for field, names in validation.SPEC_PARAMETERS.items():
        if parameter in names:
            return field
    return parameter if parameter == "spec" else f"extra_args.{parameter}"


def _without_secrets(text: str, secrets: Collection[str]) -> str:
    # Checks of arguments print what they were given, tensors included.
    line = _TENSOR.sub("a tensor", " ".join(text.split()))
    if any(_shares_text(line, secret) for secret in secrets):
        return "(its text is left out, since it holds text of the request)"
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


def _shares_text(line: str, secret: str) -> bool:
    """Finds a whole short text or a piece of a long one, however it is quoted or cased."""
    secret, line = " ".join(secret.split()).lower(), line.lower()
    if not secret:
        return False
    if len(secret) <= _WINDOW:
        return re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", line) is not None
    return any(line[i : i + _WINDOW] in secret for i in range(len(line) - _WINDOW + 1))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:_MAX_TEXT]

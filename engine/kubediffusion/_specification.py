"""From a request to the message that travels, checking every type on the way."""

from __future__ import annotations

import datetime
import operator
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion import _names, errors
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import images, values

if TYPE_CHECKING:
    from kubediffusion import _request

OUTPUT_TYPES: Mapping[str, worker_pb2.OutputType] = {
    "pil": worker_pb2.OUTPUT_TYPE_UINT8,
    "np": worker_pb2.OUTPUT_TYPE_FLOAT,
    "pt": worker_pb2.OUTPUT_TYPE_FLOAT,
    "latent": worker_pb2.OUTPUT_TYPE_LATENT,
}
ENCODINGS: Mapping[str, worker_pb2.Encoding] = {
    "raw": worker_pb2.ENCODING_RAW,
    "png": worker_pb2.ENCODING_PNG,
    "jpeg": worker_pb2.ENCODING_JPEG,
    "webp": worker_pb2.ENCODING_WEBP,
    "mp4": worker_pb2.ENCODING_MP4,
}
EXACTNESS: Mapping[str, worker_pb2.Exactness] = {
    "exact": worker_pb2.EXACTNESS_EXACT,
    "close": worker_pb2.EXACTNESS_CLOSE,
    "restarted": worker_pb2.EXACTNESS_RESTARTED,
}
MAX_PRIORITY = 1000
MAX_SPEC_BYTES = 7_900_000
"""A little less than the wire's limit on one message."""

_TEXTS = ("prompt", "negative_prompt")
_INTEGERS = ("height", "width", "num_inference_steps", "num_frames")
_NUMBERS = ("guidance_scale", "strength")
_PICTURES = ("image", "mask_image")
_INT32 = (-(2**31), 2**31 - 1)


def build(
    request: _request.OmniDiffusionRequest, adapters: Sequence[tuple[str, float]] = ()
) -> worker_pb2.GenerationSpec:
    """Return the wire's form of a request.

    Raises:
        errors.InvalidRequestError: Names every field that is wrong.
    """
    builder = _Builder(request)
    for step in (
        builder.add_scalars,
        builder.add_seed,
        builder.add_output,
        builder.add_names,
        lambda: builder.add_adapters(adapters),
        builder.add_extra_args,
    ):
        step()
    builder.add_pictures()
    if builder.violations:
        raise errors.InvalidRequestError.of(builder.violations)
    size = builder.spec.ByteSize()
    if size > MAX_SPEC_BYTES:
        raise errors.MessageTooLargeError(
            f"request must have at most {MAX_SPEC_BYTES} bytes; found {size}; send images "
            "smaller or as JPEG"
        )
    return builder.spec


def deadline(
    request: _request.OmniDiffusionRequest, now: datetime.datetime
) -> datetime.datetime | None:
    """Return the moment of a request's deadline.

    Raises:
        errors.InvalidRequestError: It is neither a number of seconds nor a moment.
    """
    given = request.deadline
    if given is None:
        return None
    if isinstance(given, datetime.datetime):
        if given.tzinfo is None:
            raise _wrong("deadline", "a moment with a time zone", given)
        return given
    if isinstance(given, bool) or not isinstance(given, int | float) or not given > 0:
        raise _wrong("deadline", "a number of seconds above 0, or a datetime", given)
    try:
        return now + datetime.timedelta(seconds=given)
    except (OverflowError, ValueError) as error:
        raise _wrong("deadline", "a number of seconds that a calendar can hold", given) from error


def priority(request: _request.OmniDiffusionRequest) -> int:
    """Return the checked priority.

    Raises:
        errors.InvalidRequestError: It is no integer from -1000 to 1000.
    """
    value = _integer("priority", request.priority)
    if abs(value) > MAX_PRIORITY:
        raise _wrong("priority", f"from -{MAX_PRIORITY} to {MAX_PRIORITY}", value)
    return value


def min_exactness(request: _request.OmniDiffusionRequest) -> worker_pb2.Exactness:
    """Return the wire's form of `min_exactness`.

    Raises:
        errors.InvalidRequestError: It is none of the three.
    """
    return EXACTNESS[_choice("min_exactness", request.min_exactness, EXACTNESS)]


class _Builder:
    """Fills a specification and collects what is wrong."""

    def __init__(self, request: _request.OmniDiffusionRequest) -> None:
        self.request = request
        self.spec = worker_pb2.GenerationSpec()
        self.violations: list[errors.Violation] = []

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except errors.InvalidRequestError as error:
            self.violations.extend(error.violations)

    def _set(self, field: str, check: Callable[[str, Any], object]) -> None:  # Any: as given
        value = getattr(self.request, field)
        if value is not None:
            self._try(lambda: setattr(self.spec, field, check(field, value)))

    def add_scalars(self) -> None:
        for field in _TEXTS:
            self._set(field, _text)
        for field in _INTEGERS:
            self._set(field, _integer32)
        for field in _NUMBERS:
            self._set(field, _number)
        count = self.request.num_outputs_per_prompt
        if count is not None:
            self._try(lambda: self._set_count(count))

    def _set_count(self, count: object) -> None:
        self.spec.num_outputs = _integer32("num_outputs_per_prompt", count)

    def add_seed(self) -> None:
        self._set("seed", _seed)

    def add_output(self) -> None:
        self._try(self._set_output)

    def _set_output(self) -> None:
        request, output = self.request, self.spec.output
        kind = _choice("output_type", request.output_type, OUTPUT_TYPES)
        if kind != "pil":  # The default is left out, so that it may be spelled or not.
            output.type = OUTPUT_TYPES[kind]
        if request.encoding not in (None, "raw"):
            output.encoding = ENCODINGS[_choice("encoding", request.encoding, ENCODINGS)]
            if kind != "pil":
                raise _wrong("output_type", "'pil' where an encoding is asked for", kind)
        if request.quality is not None:
            quality = _integer("quality", request.quality)
            if not 1 <= quality <= 100:
                raise _wrong("quality", "from 1 to 100", quality)
            output.quality = quality
        if request.frames_per_second is not None:
            rate = _number("frames_per_second", request.frames_per_second)
            if not rate > 0:
                raise _wrong("frames_per_second", "above 0", rate)
            output.frames_per_second = rate

    def add_names(self) -> None:
        self._try(self._set_names)

    def _set_names(self) -> None:
        self.spec.model = _text("model", self.request.model)
        if self.request.generator_device != "cpu":
            devices = ("cpu", "device")
            self.spec.generator_device = _choice(
                "generator_device", self.request.generator_device, devices
            )

    def add_adapters(self, defaults: Sequence[tuple[str, float]]) -> None:
        self._try(lambda: self._set_adapters(defaults))

    def _set_adapters(self, defaults: Sequence[tuple[str, float]]) -> None:
        given = self.request.lora_request
        scale = _number("lora_scale", self.request.lora_scale)
        uses = defaults if given is None else list(_adapter_uses(given, scale))
        for name, strength in uses:
            self.spec.adapters.add(name=name, scale=strength)

    def add_extra_args(self) -> None:
        given = self.request.extra_args
        if not isinstance(given, Mapping):
            text = f"must be a mapping by parameter name; found {_names.describe(given)}"
            self.violations.append(errors.Violation("extra_args", text))
            return
        for name, value in given.items():
            self._try(lambda name=name, value=value: self._set_extra(name, value))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults

    def _set_extra(self, name: object, value: object) -> None:
        if not isinstance(name, str) or not name:
            raise errors.InvalidRequestError.at(
                "extra_args", f"must have names as keys; found {_names.describe(name)}"
            )
        encoded = values.encode(value, field=f"extra_args.{name[:64]}")
        self.spec.extra_args[name].CopyFrom(encoded)

    def add_pictures(self) -> None:
        for field in _PICTURES:
            given = getattr(self.request, field)
            if given is not None:
                self._try(lambda field=field, given=given: self._set_picture(field, given))  # type: ignore[misc]  # as above

    def _set_picture(self, field: str, given: object) -> None:
        message = images.to_message(_picture(field, given))
        getattr(self.spec, field).CopyFrom(message)


def _picture(field: str, given: Any) -> images.ImageData:
    if isinstance(given, images.ImageData):
        return given
    if isinstance(given, bytes | bytearray):
        return images.ImageData(bytes(given))
    if isinstance(given, os.PathLike):
        return images.ImageData(_read_file(field, given))
    pil = sys.modules.get("PIL.Image")  # Whoever has a picture has loaded its library.
    if pil is not None and isinstance(given, pil.Image):
        return images.from_pil(given, field=field)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(given, numpy.ndarray):
        return _from_array(field, given)
    wanted = "a Pillow image, a uint8 array, the bytes of an image file, or a path object"
    raise errors.InvalidRequestError.at(field, f"must be {wanted}; found {_names.describe(given)}")


def _read_file(field: str, path: os.PathLike[str]) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise errors.InvalidRequestError.at(
            field, f"must be a readable file; found {os.fspath(path)!r}: {error.strerror}"
        ) from error


def _from_array(field: str, array: Any) -> images.ImageData:  # numpy is not imported here
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    if array.dtype.name != "uint8" or len(shape) != 3 or shape[2] not in modes:
        raise errors.InvalidRequestError.at(
            field,
            "must be uint8 of [height, width] or [height, width, 1 to 4]; found "
            f"{array.dtype.name} of {list(array.shape)}",
        )
    return images.ImageData(array.tobytes("C"), modes[shape[2]], shape[1], shape[0])


def _adapter_uses(given: object, scale: float) -> Iterator[tuple[str, float]]:
    if isinstance(given, str):
        yield given, scale
    elif isinstance(given, Mapping):
        for name, strength in given.items():
            yield _text("lora_request", name), _number("lora_request", strength)
    elif isinstance(given, tuple) and len(given) == 2 and not isinstance(given[1], str):
        yield _text("lora_request", given[0]), _number("lora_request", given[1])
    elif isinstance(given, Sequence):
        for item in given:
            yield from _adapter_uses(item, scale)
    elif (name := getattr(given, "lora_name", None)) is not None:  # vLLM's LoRARequest
        yield _text("lora_request", name), scale
    else:
        raise _wrong("lora_request", "a name, (name, scale), or several of them", given)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(field, "a text", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        text = "must be text that UTF-8 can hold; found a lone surrogate"
        raise errors.InvalidRequestError.at(field, text) from error
    return value


def _integer(field: str, value: object) -> int:
    if isinstance(value, bool):
        raise _wrong(field, "an integer", value)
    try:
        return operator.index(value)  # type: ignore[arg-type]  # the except is the check
    except TypeError as error:
        raise _wrong(field, "an integer", value) from error


def _integer32(field: str, value: object) -> int:
    number = _integer(field, value)
    if not _INT32[0] <= number <= _INT32[1]:
        raise _wrong(field, "an integer of 32 bits", number)
    return number


def _seed(field: str, value: object) -> int:
    number = _integer(field, value)
    if not 0 <= number < 2**64:
        raise _wrong(field, "from 0, below 2**64", number)
    return number


def _number(field: str, value: object) -> float:
    if isinstance(value, bool | str | bytes):
        raise _wrong(field, "a number", value)
    try:
        return float(value)  # type: ignore[arg-type]  # the except is the check
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(field, "a number", value) from error


def _choice(field: str, value: object, known: Mapping[str, Any] | Sequence[str]) -> str:
    if isinstance(value, str) and value in known:
        return value
    found = repr(value) if isinstance(value, str) and len(value) < 40 else _names.describe(value)
    wanted = ", ".join(map(repr, known))
    raise errors.InvalidRequestError.at(field, f"must be one of {wanted}; found {found}")


def _wrong(field: str, wanted: str, found: object) -> errors.InvalidRequestError:
    return errors.InvalidRequestError.at(
        field, f"must be {wanted}; found {_names.describe(found)}"
    )

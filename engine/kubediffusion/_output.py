"""What a request came to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion import _events, errors
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import images, tensors

if TYPE_CHECKING:
    import PIL.Image

_ENCODINGS = {
    worker_pb2.ENCODING_PNG: "png",
    worker_pb2.ENCODING_JPEG: "jpeg",
    worker_pb2.ENCODING_WEBP: "webp",
    worker_pb2.ENCODING_MP4: "mp4",
}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

TORCH_MISSING = "output_type 'pt' needs torch where the engine runs; install it, or ask for 'np'"


class OmniRequestOutput:
    """The outcome of one request; pictures are made when they are first asked for.

    Attributes:
        request_id: Of the request.
        prompt: Of the request; empty where this engine does not know it any more.
        finished: False only where `step` ran out of time.
        error: Why there is no result; None where there is one.
        worker: Name of the worker that made it.
        attempt: 1 where no worker was lost on the way.
        exactness: "exact" where the bits are those of an undisturbed run, "close" where they
            may differ a little, "restarted" where a checkpoint was of no use.
        resumed_from: Step of the checkpoint that the last attempt went on from; 0 for none.
        fingerprint: Names what the bits depend on; equal ones give equal bits.
        seeds: One for each output.
        flagged: One verdict of the pipeline's safety checker for each output; None where it
            has given none.
        metrics: Seconds by name ("queue_seconds", "compute_seconds", "step_seconds",
            "encode_seconds"), "steps" and "peak_memory_bytes".
        output_type: In which form `images` and `frames` come.
    """

    def __init__(
        self,
        request_id: str,
        *,
        prompt: str = "",
        output_type: str = "pil",
        header: worker_pb2.Result | None = None,
        data: bytes | bytearray | memoryview = b"",
        worker: str = "",
        attempt: int = 1,
        finished: bool = True,
        error: errors.KubediffusionError | None = None,
    ) -> None:
        self._header = header or worker_pb2.Result()
        self._data = memoryview(data)
        self.request_id = request_id
        self.prompt = prompt
        self.output_type = output_type
        self.worker = worker
        self.attempt = attempt
        self.finished = finished
        self.error = error
        self.exactness = _events.EXACTNESS.get(self._header.exactness, "")
        self.resumed_from = self._header.resumed_from
        self.fingerprint = self._header.fingerprint
        self.seeds = [output.seed for output in self._header.outputs]
        self.flagged = [
            output.is_flagged if output.HasField("is_flagged") else None
            for output in self._header.outputs
        ]
        self.metrics = _metrics(self._header.metrics)

    def __repr__(self) -> str:
        state = f"error={self.error!r}" if self.error else f"{self.size} bytes"
        return f"OmniRequestOutput({self.request_id!r}, {state}, worker={self.worker!r})"

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return len(self._data)

    @property
    def data(self) -> memoryview:
        """The bytes of all outputs."""
        return self._data

    @property
    def seed(self) -> int | None:
        """Of the first output."""
        return self.seeds[0] if self.seeds else None

    @property
    def sha256(self) -> str:
        """Of all bytes of the result, hexadecimal."""
        return self._header.sha256

    @functools.cached_property
    def images(self) -> list[Any]:  # Any: of the type that was asked for
        """The pictures, as `output_type` says; empty where the pipeline makes none.

        "pil": Pillow images. "np": float32 arrays, [height, width, channels], 0 to 1. "pt":
        float32 tensors, [channels, height, width], 0 to 1.

        Raises:
            KubediffusionError: The request failed; the error says why.
            ModuleNotFoundError: "pt" without torch.
        """
        return self.convert(self.output_type)

    @functools.cached_property
    def frames(self) -> list[Any]:  # Any: as with `images`
        """The videos, each as a list of pictures ("pil") or as one array or tensor.

        "np": float32, [frames, height, width, channels]; "pt": float32, [frames, channels,
        height, width].

        Raises:
            KubediffusionError: The request failed; the error says why.
            ModuleNotFoundError: "pt" without torch.
        """
        converter = _converter(self.output_type)
        return [converter(self._pixels(part)) for part in self._raw(worker_pb2.OUTPUT_KIND_VIDEO)]

    @functools.cached_property
    def latents(self) -> Any:  # Any: numpy array or torch tensor
        """The latents, [channels, height, width]; None where none were asked for.

        A numpy array, bfloat16 as float32. Several outputs give a list.

        Raises:
            KubediffusionError: The request failed; the error says why.
        """
        return self._arrays(worker_pb2.OUTPUT_KIND_LATENTS)

    @functools.cached_property
    def audio(self) -> Any:  # Any: as with `latents`
        """Waveforms as numpy arrays; None where the pipeline makes none.

        Raises:
            KubediffusionError: The request failed; the error says why.
        """
        return self._arrays(worker_pb2.OUTPUT_KIND_AUDIO)

    @functools.cached_property
    def arrays(self) -> dict[str, Any]:  # Any: numpy arrays
        """Further outputs of the pipeline by its own names.

        Raises:
            KubediffusionError: The request failed; the error says why.
        """
        parts = list(self._raw(worker_pb2.OUTPUT_KIND_ARRAY))
        return {part.name: self._tensor(part).to_numpy() for part in parts}

    @functools.cached_property
    def files(self) -> list[bytes]:
        """The outputs as files, where an encoding was asked for; else empty.

        Raises:
            KubediffusionError: The request failed; the error says why.
        """
        self.raise_for_error()
        return [bytes(self._view(part)) for part in self._header.outputs if _is_file(part)]

    @property
    def encodings(self) -> list[str]:
        """The format of each of `files`: "png", "jpeg", "webp" or "mp4"."""
        return [_ENCODINGS[part.encoding] for part in self._header.outputs if _is_file(part)]

    def convert(self, output_type: str) -> list[Any]:  # Any: see `images`
        """Return the pictures as "pil", "np" or "pt", whatever was asked for.

        Raises:
            ValueError: There is no such type.
            KubediffusionError: The request failed; the error says why.
            ModuleNotFoundError: "pt" without torch.
        """
        self.raise_for_error()
        converter = _converter(output_type)
        kind = worker_pb2.OUTPUT_KIND_IMAGE
        parts = [part for part in self._header.outputs if part.kind == kind]
        if output_type in ("pil", "latent"):
            return [self._picture(part) for part in parts]
        return [converter(self._pixels(part)) for part in parts]

    def raise_for_error(self) -> None:
        """Raise the error where there is one.

        Raises:
            KubediffusionError: The request failed, or has not ended.
        """
        if self.error is not None:
            raise self.error
        if not self.finished:
            raise errors.ResultNotReadyError(f"generation {self.request_id!r} has not ended")

    def _raw(self, kind: worker_pb2.OutputKind) -> Iterator[worker_pb2.Output]:
        self.raise_for_error()
        return (part for part in self._header.outputs if part.kind == kind and not _is_file(part))

    def _view(self, part: worker_pb2.Output) -> memoryview:
        return self._data[part.offset : part.offset + part.size]

    def _picture(self, part: worker_pb2.Output) -> PIL.Image.Image:
        if _is_file(part):
            return images.ImageData(bytes(self._view(part))).to_pil()
        if part.dtype != worker_pb2.DATA_TYPE_UINT8:
            picture: PIL.Image.Image = _to_pil(self._pixels(part))
            return picture
        import PIL.Image

        height, width, channels = part.shape
        return PIL.Image.frombytes(_MODES[channels], (width, height), self._view(part))

    def _pixels(self, part: worker_pb2.Output) -> Any:  # numpy is loaded late
        import numpy

        if _is_file(part):
            return numpy.asarray(self._picture(part))
        dtype = numpy.dtype("<f4") if part.dtype == worker_pb2.DATA_TYPE_FLOAT32 else "u1"
        return numpy.frombuffer(self._view(part), dtype).reshape(tuple(part.shape))

    def _arrays(self, kind: worker_pb2.OutputKind) -> Any:
        found = [self._tensor(part) for part in self._raw(kind)]
        if self.output_type == "pt":
            _import_torch()
            converted = [tensor.to_torch() for tensor in found]
        else:
            converted = [tensor.to_numpy() for tensor in found]
        if len(converted) < 2:
            return converted[0] if converted else None
        return converted

    def _tensor(self, part: worker_pb2.Output) -> tensors.TensorData:
        dtype = tensors.dtype_from_wire(part.dtype)
        return tensors.TensorData(dtype, tuple(part.shape), bytes(self._view(part)))


def _is_file(part: worker_pb2.Output) -> bool:
    return part.encoding in _ENCODINGS


def _converter(output_type: str) -> Callable[[Any], Any]:
    match output_type:
        case "pil" | "latent":
            return _to_pil
        case "np":
            return _to_numpy
        case "pt":
            return _to_torch
        case _:
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt'; found {output_type!r}")


def _to_pil(pixels: Any) -> Any:
    """Return a picture, or a list of pictures where there is an axis of frames."""
    import PIL.Image

    if pixels.ndim == 4:
        return [_to_pil(frame) for frame in pixels]
    if pixels.dtype != "u1":
        # As diffusers does it, so that both ways give the same picture.
        pixels = (pixels * 255).round().astype("u1")
    if pixels.shape[2] == 1:
        return PIL.Image.fromarray(pixels[:, :, 0])
    return PIL.Image.fromarray(pixels)


def _to_numpy(pixels: Any) -> Any:
    return pixels.astype("f4") / 255 if pixels.dtype == "u1" else pixels.copy()


def _to_torch(pixels: Any) -> Any:
    torch = _import_torch()
    array = _to_numpy(pixels)
    return torch.from_numpy(array.swapaxes(-1, -2).swapaxes(-2, -3).copy())


def _import_torch() -> Any:  # torch is no dependency of the engine
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(TORCH_MISSING, name="torch") from error
    return torch


def _metrics(message: worker_pb2.GenerationMetrics) -> dict[str, float]:
    names: Sequence[str] = [field.name for field in message.DESCRIPTOR.fields]
    return {name: getattr(message, name) for name in names}

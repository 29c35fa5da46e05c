"""Requests and outputs of workers that do not speak the wire: Python objects both ways.

Written by others, so outputs come in many shapes: `OmniRequestOutput` and its relatives,
pictures, arrays, tensors, alone or in lists.
"""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers, images, tensors, values

if TYPE_CHECKING:
    from kubediffusion import _request

_OUTPUT_TYPES = {
    worker_pb2.OUTPUT_TYPE_UNSPECIFIED: "pil",
    worker_pb2.OUTPUT_TYPE_UINT8: "pil",
    worker_pb2.OUTPUT_TYPE_FLOAT: "np",
    worker_pb2.OUTPUT_TYPE_LATENT: "latent",
}
_SCALARS = (
    "prompt",
    "negative_prompt",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "num_frames",
    "strength",
)


def request_of(submission: worker_pb2.SubmitGenerationRequest) -> _request.OmniDiffusionRequest:
    """Return the request that a submission was made from, with its seed filled in.

    Raises:
        InvalidRequestError: It asks for what foreign workers cannot do.
    """
    from kubediffusion import _request

    spec = submission.spec
    if spec.output.encoding not in (worker_pb2.ENCODING_UNSPECIFIED, worker_pb2.ENCODING_RAW):
        raise errors.InvalidRequestError.at(
            "encoding", "must be None here: this executor's workers return pixels"
        )
    known = {name: getattr(spec, name) for name in _SCALARS if spec.HasField(name)}
    return _request.OmniDiffusionRequest(
        **known,
        request_id=submission.request_id,
        priority=submission.priority,
        model=spec.model,
        seed=seed_of(submission),
        num_outputs_per_prompt=spec.num_outputs if spec.HasField("num_outputs") else None,
        image=_picture(spec, "image"),
        mask_image=_picture(spec, "mask_image"),
        output_type=_OUTPUT_TYPES[spec.output.type],
        lora_request=[(use.name, use.scale) for use in spec.adapters] or None,
        extra_args={name: values.decode(value) for name, value in spec.extra_args.items()},
    )


def seed_of(submission: worker_pb2.SubmitGenerationRequest) -> int:
    """Return the seed of a generation: its own, else the one that its ids give."""
    if submission.spec.HasField("seed"):
        return submission.spec.seed
    return identifiers.derive_seed(submission.caller.engine_id, submission.request_id)


def _picture(spec: worker_pb2.GenerationSpec, field: str) -> Any:  # Pillow's type, loaded late
    if not spec.HasField(field):
        return None
    return images.from_message(getattr(spec, field), field=field).to_pil(field=field)


def result_of(
    answer: object, submission: worker_pb2.SubmitGenerationRequest
) -> tuple[worker_pb2.Result, bytes]:
    """Return the header and the bytes of what `generate([request])` returned.

    Raises:
        PipelineError: The answer is an error, empty, or of a kind that nobody knows.
    """
    wanted = submission.spec.output.type
    seed, offset = seed_of(submission), 0
    header, parts = worker_pb2.Result(), []
    for index, (kind, tensor) in enumerate(_tensors(answer, wanted)):
        header.outputs.add(
            kind=kind,
            encoding=worker_pb2.ENCODING_RAW,
            dtype=tensors.dtype_to_wire(tensor.dtype),
            shape=tensor.shape,
            offset=offset,
            size=len(tensor.data),
            seed=seed + index,
            sha256=hashlib.sha256(tensor.data).hexdigest(),
            name="latents" if kind == worker_pb2.OUTPUT_KIND_LATENTS else "images",
        )
        parts.append(tensor.data)
        offset += len(tensor.data)
    if not parts:
        raise errors.PipelineError("the worker returned no outputs")
    data = b"".join(parts)
    header.size, header.sha256 = len(data), hashlib.sha256(data).hexdigest()
    return header, data


def _tensors(
    answer: object, wanted: worker_pb2.OutputType
) -> Iterator[tuple[worker_pb2.OutputKind, tensors.TensorData]]:
    if isinstance(answer, str | bytes):
        raise errors.PipelineError(f"the worker returned {type(answer).__name__}, no pictures")
    if isinstance(answer, Sequence):
        for item in answer:
            yield from _tensors(item, wanted)
        return
    if isinstance(answer, Mapping):
        answer = types.SimpleNamespace(**answer)
    _raise_error(answer)
    pictures = _first_attribute(answer, ("images", "frames", "output", "outputs"))
    latents = getattr(answer, "latents", None)
    if pictures is not None:
        yield from _tensors(pictures, wanted)
    elif latents is not None:
        yield worker_pb2.OUTPUT_KIND_LATENTS, _tensor(latents)
    elif wanted == worker_pb2.OUTPUT_TYPE_LATENT and answer is not None:
        yield worker_pb2.OUTPUT_KIND_LATENTS, _tensor(answer)
    elif answer is not None:
        is_float = wanted == worker_pb2.OUTPUT_TYPE_FLOAT
        yield from _pictures(answer, wants_float=is_float)


def _raise_error(answer: object) -> None:
    error = getattr(answer, "error", None)
    if isinstance(error, errors.KubediffusionError):
        raise error
    if error:
        raise errors.PipelineError(f"the worker reported: {error!s:.300}")


def _first_attribute(answer: object, names: Sequence[str]) -> object | None:
    found = (getattr(answer, name, None) for name in names)
    # A picture has no such attribute, and an empty list says nothing.
    return next((v for v in found if v is not None and not (isinstance(v, list) and not v)), None)


def _pictures(
    answer: object, *, wants_float: bool
) -> Iterator[tuple[worker_pb2.OutputKind, tensors.TensorData]]:
    """Yield one tensor for each picture [height, width, channels] or video of an array."""
    import numpy

    array = _array(answer)
    kinds = {
        3: worker_pb2.OUTPUT_KIND_IMAGE,
        4: worker_pb2.OUTPUT_KIND_IMAGE,  # a batch of them
        5: worker_pb2.OUTPUT_KIND_VIDEO,  # a batch of them
    }
    if array.ndim not in kinds:
        raise errors.PipelineError(
            f"the worker returned an array of {array.ndim} axes; known are [height, width, "
            "channels], with a batch axis before it, and videos with two"
        )
    is_float = array.dtype.kind == "f"
    if wants_float and not is_float:
        array = array.astype(numpy.float32) / 255
    elif is_float and not wants_float:
        array = (array.clip(0, 1) * 255).round().astype(numpy.uint8)
    for item in array[None] if array.ndim == 3 else array:
        yield kinds[array.ndim], tensors.from_numpy(numpy.ascontiguousarray(item))


def _array(answer: object) -> Any:  # numpy's type, loaded late
    import numpy

    torch = sys.modules.get("torch")  # Whoever returns a tensor has loaded its library.
    if torch is not None and isinstance(answer, torch.Tensor):
        array = tensors.from_torch(answer).to_numpy()
        # torch has channels before height and width.
        return numpy.moveaxis(array, -3, -1) if array.ndim >= 3 else array
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(answer, pil.Image):
        return numpy.atleast_3d(numpy.asarray(answer))
    if isinstance(answer, numpy.ndarray):
        return answer
    raise errors.PipelineError(
        f"the worker returned {type(answer).__name__}; wanted pictures, arrays or "
        "OmniRequestOutput"
    )


def _tensor(latents: object) -> tensors.TensorData:
    import numpy

    if isinstance(latents, numpy.ndarray):
        return tensors.from_numpy(latents)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(latents, torch.Tensor):
        return tensors.from_torch(latents)
    raise errors.PipelineError(f"the worker returned {type(latents).__name__} for latents")

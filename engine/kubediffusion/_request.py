"""What a user asks for, in the words of diffusers and vLLM-Omni."""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion import _names, errors

if TYPE_CHECKING:
    import numpy
    import PIL.Image

    from kubediffusion_proto.v1 import worker_pb2
    from kubediffusion_wire import images

    Picture = (
        PIL.Image.Image | numpy.ndarray[Any, Any] | images.ImageData | bytes | os.PathLike[str]
    )
    Lora = str | tuple[str, float] | Mapping[str, float] | Sequence[str | tuple[str, float]]
    Deadline = float | datetime.datetime

_ALIASES = {
    "fps": "frames_per_second",
    "frame_rate": "frames_per_second",
    "id": "request_id",
    "init_image": "image",
    "lora": "lora_request",
    "num_images_per_prompt": "num_outputs_per_prompt",
    "num_outputs": "num_outputs_per_prompt",
    "num_videos_per_prompt": "num_outputs_per_prompt",
}
_ELSEWHERE = "events tell it for every generation"
_IGNORED = {
    "arrival_time": "the worker takes the time",
    "return_trajectory_decoded": _ELSEWHERE,
    "return_trajectory_latents": _ELSEWHERE,
    "save_output": "the caller gets the images",
}


def _unknown(name: str, text: str) -> errors.UnknownNameError:
    return errors.UnknownNameError(text, violations=[errors.Violation(name, text)])


@_names.lenient(error=_unknown, aliases=_ALIASES, ignored=_IGNORED)
@dataclasses.dataclass
class OmniDiffusionRequest:
    """Describes one generation; None leaves a parameter to the pipeline's own default.

    A name that does not exist is refused with the nearest known ones. Further parameters of
    the pipeline's call go into `extra_args`.
    """

    prompt: str | None = None
    """What to draw."""

    _: dataclasses.KW_ONLY

    negative_prompt: str | None = None
    """What not to draw."""

    height: int | None = None
    """In pixels."""

    width: int | None = None
    """In pixels."""

    num_inference_steps: int | None = None
    """Denoising steps."""

    guidance_scale: float | None = None
    """How closely to follow the prompt; 0.0 is a value, not an absence."""

    seed: int | None = None
    """From 0, below 2**64; output i is drawn from seed + i. None: derived from engine id
    and request id, and told with the output."""

    num_outputs_per_prompt: int | None = None
    """Images or videos to make; None: one."""

    num_frames: int | None = None
    """Length of a video."""

    frames_per_second: float | None = None
    """Speed of an mp4 file; None: 16."""

    image: Picture | None = None
    """Starting image: Pillow, numpy (uint8, [height, width, channels]), the bytes of a PNG,
    JPEG or WebP file, or its path."""

    mask_image: Picture | None = None
    """Where to paint, for inpainting: white is painted anew. Types as for `image`."""

    strength: float | None = None
    """From 0 (keep the image) to 1 (ignore it)."""

    output_type: str = "pil"
    """"pil", "np" (float32, 0 to 1, channels last), "pt" (the same as torch tensor, channels
    first) or "latent"."""

    encoding: str | None = None
    """"png", "jpeg", "webp" or "mp4" to get `output.files` encoded by the worker; None or
    "raw": pixels."""

    quality: int | None = None
    """From 1 to 100, for lossy encodings."""

    lora_request: Lora | None = None
    """Name of a resident LoRA adapter, with its scale as (name, scale); or several."""

    lora_scale: float = 1.0
    """Scale of adapters that `lora_request` names without one."""

    model: str = ""
    """Use only workers that serve this model; empty: the engine's configuration decides."""

    generator_device: str = "cpu"
    """Where noise is drawn: "cpu" gives the same noise on every device; "device"."""

    extra_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further arguments of the pipeline's call, by their diffusers names."""  # Any: a Value

    request_id: str = ""
    """1 to 128 characters of [A-Za-z0-9._:-]; the same id means the same generation, also
    after a restart. Empty: a new one is drawn."""

    priority: int = 0
    """From -1000 to 1000; higher runs first."""

    deadline: Deadline | None = None
    """Seconds from now, or a moment with time zone; past it the generation fails."""

    min_exactness: str = "close"
    """"exact", "close" or "restarted": what a generation may become when its worker dies."""

    @classmethod
    def of(cls, given: OmniDiffusionRequest | Mapping[str, Any] | str) -> OmniDiffusionRequest:
        """Return a request as it is, or one made from its fields or its prompt alone.

        Raises:
            InvalidRequestError: It is none of these, or has unknown fields.
        """
        if isinstance(given, OmniDiffusionRequest):
            return given
        if isinstance(given, str):
            return cls(given)
        if isinstance(given, Mapping):
            return cls(**given)
        raise errors.InvalidRequestError.at(
            "request",
            "must be an OmniDiffusionRequest, a mapping of its fields, or a prompt; "
            f"found {_names.describe(given)}",
        )

    def to_spec(self, adapters: Sequence[tuple[str, float]] = ()) -> worker_pb2.GenerationSpec:
        """Return the wire's form of the request, with types and ranges checked.

        Args:
            adapters: Name and scale of the LoRA adapters to use if the request names none.

        Raises:
            InvalidRequestError: Names every field that is wrong.
        """
        from kubediffusion import _specification  # Late: it loads protobuf.

        return _specification.build(self, adapters)

    def __post_init__(self) -> None:
        if isinstance(self.prompt, list | tuple):
            text = "must be one text; submit one request per prompt, or use num_outputs_per_prompt"
            raise errors.InvalidRequestError.at("prompt", text)

"""Small pictures of what a run is about to make, a few microseconds instead of a decoder's run.

Latents are nearly a small picture already: a linear map from their channels to red, green and
blue shows what is going on. It is fitted, by least squares, to what the pipeline's own VAE makes
of a few synthetic pictures, so that every model has one of its own. Those who want better
pictures mount a tiny autoencoder.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.pipelines import pipeline_utils

MAX_SIDE = 256
"""Pixels of a preview's longer side, at most."""

_FITTED_PICTURES = 32
_FITTED_LATENTS = 8
"""Latents along each side of a picture that the map is fitted to."""
_MAX_FITTED_SIDE = 256
_RIDGE = 1e-3
"""Keeps the map small in directions that the pictures do not tell anything about."""
_PATCH = 2
"""Side of the patches that transformers with one axis of tokens take; others take single ones."""


class Painter(Protocol):
    """Turns latents into a picture."""

    def paint(self, latents: torch.Tensor, *, aspect: float) -> torch.Tensor | None:
        """Returns a picture.

        Args:
            latents: Finished or estimated, as the denoising loop has them: [batch, channels,
                height, width], with an axis of frames before or after the channels, or
                [batch, tokens, channels].
            aspect: Width by height of the picture; only tokens need it.

        Returns:
            uint8 on the CPU, [height, width, 3]; None for shapes that mean something else.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelPainter:
    """For pipelines that denoise pixels."""

    def paint(self, latents: torch.Tensor, *, aspect: float) -> torch.Tensor | None:
        """See `Painter`; pixels are from -1 to 1."""
        del aspect
        if latents.dim() != 4 or latents.shape[1] not in (1, 3):
            return None
        return _pixels(latents[0].float().movedim(0, -1).expand(-1, -1, 3))


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearPainter:
    """A linear map from the channels of latents to colours."""

    colours: torch.Tensor
    """float32, [channels + 1, 3]; the last row is the constant part."""
    patch_colours: torch.Tensor
    """The same for tokens of patches, [4 * channels + 1, 3]."""

    def paint(self, latents: torch.Tensor, *, aspect: float) -> torch.Tensor | None:
        """See `Painter`."""
        plane = _plane(latents, channels=len(self.colours) - 1)
        if plane is not None:
            return _coloured(plane, self.colours)
        for colours in (self.colours, self.patch_colours):
            tokens = _tokens(latents, channels=len(colours) - 1, aspect=aspect)
            if tokens is not None:
                return _coloured(tokens, colours)
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingPainter:
    """A tiny autoencoder; takes more time and shows more."""

    decoder: Any  # diffusers.AutoencoderTiny, which is exported lazily and untyped
    channels: int

    def paint(self, latents: torch.Tensor, *, aspect: float) -> torch.Tensor | None:
        """See `Painter`; the autoencoder's colours are from -1 to 1."""
        del aspect
        plane = _plane(latents, channels=self.channels)
        if plane is None:
            return None
        parameter = next(self.decoder.parameters())
        batch = plane.movedim(-1, 0).unsqueeze(0).to(parameter.device, parameter.dtype)
        with torch.no_grad():
            decoded = self.decoder.decode(batch, return_dict=False)[0]
        return _pixels(decoded[0].float().movedim(0, -1))


def painter_of(pipeline: pipeline_utils.DiffusionPipeline) -> Painter | None:
    """Fits a painter to a pipeline; runs its VAE once.

    Returns:
        None where the pipeline's latents cannot be told from what it is made of.
    """
    vae: Any = getattr(pipeline, "vae", None)  # Any: each VAE is a class of its own
    if vae is None:
        has_pixels = isinstance(getattr(pipeline, "unet", None), torch.nn.Module)
        return PixelPainter() if has_pixels else None
    try:
        with torch.no_grad():
            pictures, latents = _encoded(vae)
            patches = _normalised_patches(vae, latents)
            latents = _normalised(vae, latents)
        return LinearPainter(
            colours=_fit(latents, pictures), patch_colours=_fit(patches, pictures)
        )
    except Exception:  # noqa: BLE001  # an autoencoder of another kind, which is no failure
        return None


def _encoded(vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns pictures, [n, 3, side, side], and their latents, [n, channels, height, width]."""
    parameter = next(vae.parameters())
    pictures = _pictures(_side(vae)).to(parameter.device, parameter.dtype)
    try:
        encoded = vae.encode(pictures)
    except (RuntimeError, ValueError, TypeError):
        encoded = vae.encode(pictures.unsqueeze(2))  # One of videos.
    found = getattr(encoded, "latent_dist", None)
    latents: torch.Tensor = found.mode() if found is not None else _first(encoded)
    if latents.dim() == 5:
        latents = latents[:, :, 0]
    return pictures.float().cpu(), latents.float().cpu()


def _first(encoded: Any) -> torch.Tensor:
    found = getattr(encoded, "latent", None)
    if found is None:
        found = encoded.latents
    if not isinstance(found, torch.Tensor):
        raise TypeError("this autoencoder gives no latents")
    return found


def _side(vae: Any) -> int:
    config = vae.config
    told = config.get("spatial_compression_ratio") or config.get("scale_factor_spatial")
    blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels") or ()
    compression = told or 2 ** max(0, len(blocks) - 1) or 8
    return int(min(_MAX_FITTED_SIDE, max(32, _FITTED_LATENTS * compression)))


def _pictures(side: int) -> torch.Tensor:
    """Returns pictures of four fields in strong colours each, from -1 to 1.

    Strong ones, because autoencoders are not linear and soft colours would come out pale.
    """
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(_FITTED_PICTURES, 3, 2, 2, generator=generator) * 2 - 1
    strong = colours.sign() * colours.abs() ** 0.3
    return strong.repeat_interleave(side // 2, dim=2).repeat_interleave(side // 2, dim=3)


def _normalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Returns latents as denoising loops have them."""
    config = vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and deviation is not None:
        shape = (1, -1, 1, 1)
        centred = latents - torch.as_tensor(mean).float().reshape(shape)
        return centred / torch.as_tensor(deviation).float().reshape(shape)
    shift: float = config.get("shift_factor") or 0.0
    scale: float = config.get("scaling_factor") or 1.0
    return (latents - shift) * scale


def _normalised_patches(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Returns patches of latents as channels, [n, 4 * channels, height, width]."""
    norm = getattr(vae, "bn", None)
    if norm is None:
        return _patched(_normalised(vae, latents))
    patches = _patched(latents)
    epsilon = vae.config.get("batch_norm_eps") or norm.eps
    deviation = torch.sqrt(norm.running_var.float().cpu() + epsilon).reshape(1, -1, 1, 1)
    mean: torch.Tensor = norm.running_mean.float().cpu().reshape(1, -1, 1, 1)
    return (patches - mean) / deviation


def _patched(latents: torch.Tensor) -> torch.Tensor:
    patched: torch.Tensor = torch.nn.functional.pixel_unshuffle(latents, _PATCH)
    return patched


def _fit(latents: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Returns the linear map that comes closest: ridge regression with a constant part."""
    small = torch.nn.functional.interpolate(pictures, latents.shape[-2:], mode="area")
    inputs = latents.movedim(1, -1).flatten(0, -2)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1).double()
    wanted = small.movedim(1, -1).flatten(0, -2).double()
    gram = inputs.T @ inputs
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    fitted: torch.Tensor = torch.linalg.solve(gram, inputs.T @ wanted)
    return fitted.float()


def _plane(latents: torch.Tensor, *, channels: int) -> torch.Tensor | None:
    """Returns the first sample, of a video its middle frame: [height, width, channels]."""
    if latents.dim() == 4 and latents.shape[1] == channels:
        return latents[0].movedim(0, -1)
    if latents.dim() == 5 and latents.shape[1] == channels:
        return latents[0, :, latents.shape[2] // 2].movedim(0, -1)
    if latents.dim() == 5 and latents.shape[2] == channels:
        return latents[0, latents.shape[1] // 2].movedim(0, -1)
    return None


def _tokens(latents: torch.Tensor, *, channels: int, aspect: float) -> torch.Tensor | None:
    """Returns the tokens of the first sample as [height, width, channels]."""
    if latents.dim() != 3 or latents.shape[2] != channels:
        return None
    count = latents.shape[1]
    sides = [side for side in range(1, count + 1) if count % side == 0]
    height = min(sides, key=lambda side: abs(math.log(count / side / side / aspect)))
    return latents[0].reshape(height, count // height, channels)


def _coloured(plane: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    colours = colours.to(plane.device)
    return _pixels(plane.float() @ colours[:-1] + colours[-1])


def _pixels(picture: torch.Tensor) -> torch.Tensor:
    """Returns colours from -1 to 1 as bytes, at most `MAX_SIDE` wide and high."""
    step = math.ceil(max(picture.shape[:2]) / MAX_SIDE)
    small = picture[::step, ::step]
    return ((small.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().contiguous()

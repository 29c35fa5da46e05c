"""Loads pipelines from folders and from the hub, and says in one line why one cannot be served."""

import logging
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines import pipeline_utils
from huggingface_hub import errors as hub_errors
from huggingface_hub import utils as hub_utils

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import (
    certificates,
    certification,
    fingerprint,
    folders,
    model,
    pipeline,
    previews,
)

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DENOISERS = ("unet", "transformer", "prior", "decoder", "controlnet", "dit")
_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load(config: model.ModelConfig) -> pipeline.SharedPipeline:
    """Loads a pipeline; see `model.load`."""
    _be_quiet()
    device = _device(config)
    folder = folders.local(config) or _from_hub(config)
    revision = folder.name if _COMMIT.fullmatch(folder.name) else ""
    _check_class(folders.check(folder, config), config)
    with warnings.catch_warnings():
        # The libraries warn of what is old in a model, which is nobody's to change here, and of
        # torch_dtype, the only name that all releases of diffusers know.
        warnings.simplefilter("ignore")
        loaded = _from_folder(folder, config, _dtype(config, device))
    _save_memory_in_vae(loaded, config)
    _place(loaded, config, device)
    shared = pipeline.SharedPipeline(
        loaded,
        config=config,
        device=device,
        weights_digest=fingerprint.weights_in_folder(folder, revision=revision),
        revision=revision,
    )
    shared.painter = _painter(loaded, config)
    shared.certificate = _certificate(shared)
    return shared


def _painter(
    loaded: pipeline_utils.DiffusionPipeline, config: model.ModelConfig
) -> previews.Painter | None:
    if not config.preview_vae:
        return previews.painter_of(loaded)
    try:
        tiny: Any = diffusers.AutoencoderTiny  # exported lazily
        decoder = tiny.from_pretrained(
            config.preview_vae, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise model.ModelLoadError(
            "MODEL_BROKEN",
            f"preview VAE {config.preview_vae!r} must be a folder with an AutoencoderTiny; "
            f"found: {model.one_line(error)}",
        ) from None
    decoder.eval().requires_grad_(False).to(loaded._execution_device, loaded.dtype)
    return previews.DecodingPainter(decoder=decoder, channels=decoder.config.latent_channels)


def _certificate(shared: pipeline.SharedPipeline) -> certification.Certificate:
    """Returns what was found out about a pipeline, now or at an earlier start."""
    if not shared.config.certify:
        return certification.UNTRIED
    folder = certificates.default_folder()
    known = certificates.recall(folder, shared.fingerprint)
    if known is not None:
        return known
    certificate = certification.certify(shared)
    certificates.remember(folder, shared.fingerprint, certificate)
    logger.info(
        "Pipeline is certified",
        extra={
            "resume": worker_pb2.ResumeCapability.Name(certificate.resume),
            "reason": certificate.reason,
        },
    )
    return certificate


def _be_quiet() -> None:
    """Stops the libraries' bars and notes; the latter may quote prompts."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    hub_utils.disable_progress_bars()  # type: ignore[attr-defined]  # documented as public


def _device(config: model.ModelConfig) -> torch.device:
    if config.device == "auto":
        return torch.device(_best_device())
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise model.ModelLoadError(
            "DEVICE_NOT_FOUND",
            f"device {config.device!r} must exist; found {_best_device()!r}; use 'auto' "
            f"({model.one_line(error)})",
        ) from None
    return device


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(config: model.ModelConfig, device: torch.device) -> torch.dtype:
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return _DTYPES[config.dtype]


def _from_hub(config: model.ModelConfig) -> pathlib.Path:
    try:
        return pathlib.Path(
            pipeline_utils.DiffusionPipeline.download(
                config.model,
                revision=config.revision or None,
                variant=config.variant or None,
                use_safetensors=True,
            )
        )
    except hub_errors.GatedRepoError:
        raise model.ModelLoadError(
            "MODEL_FORBIDDEN",
            f"model {config.model!r} is gated: accept its terms on the hub and set HF_TOKEN",
        ) from None
    except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError):
        at = f" at revision {config.revision!r}" if config.revision else ""
        raise model.ModelLoadError(
            "MODEL_NOT_FOUND",
            f"model {config.model!r} must be a folder or on the hub; found neither{at}; check "
            "the name, and HF_TOKEN if it is private",
        ) from None
    # The hub's client raises errors of several HTTP libraries, all of them OSError.
    except (OSError, ValueError) as error:
        raise model.ModelLoadError(
            "HUB_UNREACHABLE",
            f"model {config.model!r} must be a folder, in the hub's cache or on the hub; found "
            f"none of it: {model.one_line(error)}",
        ) from None


def _check_class(class_name: str, config: model.ModelConfig) -> None:
    if not _is_pipeline(getattr(diffusers, class_name, None)):
        raise model.ModelLoadError(
            "UNKNOWN_PIPELINE",
            f"model {config.model!r} needs the class {class_name!r}, which diffusers "
            f"{diffusers.__version__} does not have; upgrade diffusers",
        )


def _is_pipeline(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, pipeline_utils.DiffusionPipeline)


def _from_folder(
    folder: pathlib.Path, config: model.ModelConfig, dtype: torch.dtype
) -> pipeline_utils.DiffusionPipeline:
    try:
        loaded = pipeline_utils.DiffusionPipeline.from_pretrained(
            str(folder),
            torch_dtype=dtype,
            variant=config.variant or None,
            use_safetensors=True,
            local_files_only=True,
        )
    # Files that are missing, broken, or not what the index says.
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise _unloadable(config, error) from None
    except ImportError as error:
        raise model.ModelLoadError(
            "MISSING_PACKAGE",
            f"model {config.model!r} needs a package that is not installed: "
            f"{model.one_line(error)}",
        ) from None
    except Exception as error:
        # safetensors raises an error of its own class, right below Exception.
        if type(error).__module__.startswith("safetensors"):
            raise _unloadable(config, error) from None
        raise
    if not isinstance(loaded, pipeline_utils.DiffusionPipeline):
        raise _unloadable(config, TypeError(f"{type(loaded).__name__} is no pipeline"))
    return loaded


def _unloadable(config: model.ModelConfig, error: Exception) -> model.ModelLoadError:
    return model.ModelLoadError(
        "MODEL_BROKEN", f"model {config.model!r} cannot be loaded: {model.one_line(error)}"
    )


def _save_memory_in_vae(
    loaded: pipeline_utils.DiffusionPipeline, config: model.ModelConfig
) -> None:
    """Lets the VAE work on one image, or on one tile of it, at a time."""
    vae = loaded.components.get("vae")
    for is_wanted, flag, name in (
        (config.vae_slicing, "--vae-slicing", "enable_slicing"),
        (config.vae_tiling, "--vae-tiling", "enable_tiling"),
    ):
        if not is_wanted:
            continue
        try:
            getattr(vae, name)()
        # The class lacks the method, or has one that only says so.
        except (AttributeError, NotImplementedError):
            found = "none" if vae is None else type(vae).__name__
            raise model.ModelLoadError(
                "VAE_REFUSED",
                f"model {config.model!r} must have a VAE that can do {flag}; found {found}; "
                "leave the flag out",
            ) from None


def _place(
    loaded: pipeline_utils.DiffusionPipeline, config: model.ModelConfig, device: torch.device
) -> None:
    """Puts a pipeline on its device, ready for inference."""
    loaded.set_progress_bar_config(disable=True)
    for part in loaded.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
            part.requires_grad_(False)
    if config.offload == "sequential" and device.type == "cpu":
        raise model.ModelLoadError(
            "DEVICE_REFUSED", "offload 'sequential' needs a GPU; found the CPU; use 'none'"
        )
    try:
        if config.offload == "model":
            loaded.enable_model_cpu_offload(device=device)
        elif config.offload == "sequential":
            loaded.enable_sequential_cpu_offload(device=device)
        else:
            loaded.to(device)
    except (RuntimeError, ValueError, ImportError) as error:
        raise model.ModelLoadError(
            "DEVICE_REFUSED",
            f"model {config.model!r} must fit onto {str(device)!r} with offload "
            f"{config.offload!r}; found: {model.one_line(error)}",
        ) from None
    if config.compile:
        _compile(loaded)


def _compile(loaded: pipeline_utils.DiffusionPipeline) -> None:
    """Marks denoisers for compilation, which happens in their first forwards."""
    for name, part in loaded.components.items():
        if not isinstance(part, torch.nn.Module) or not name.startswith(_DENOISERS):
            continue
        # Compiling one block that is repeated takes a fraction of the time.
        if getattr(part, "_repeated_blocks", None):
            part.compile_repeated_blocks()  # type: ignore[operator]  # of diffusers' ModelMixin
        else:
            part.compile()

"""What results depend on bit for bit, as facts and as one short name of them all."""

import hashlib
import json
import pathlib
import platform
from collections.abc import Iterable, Mapping

import diffusers
import torch
import transformers
from diffusers.utils import constants

from kubediffusion_worker import model

STEP_CONTROL_FORMAT = "1"
"""Raised when runs of the same pipeline give other bits because of our own code."""

_SAMPLED_BLOCKS = 16
_BLOCK = 4096
_SAMPLED_ELEMENTS = 64
_MAX_HEADER = 100_000_000


def of(facts: Mapping[str, str]) -> str:
    """Returns the name of a set of facts: sha256, hexadecimal."""
    text = json.dumps(sorted(facts.items()), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def facts(
    config: model.ModelConfig, *, weights_digest: str, device: torch.device, dtype: str
) -> dict[str, str]:
    """Returns what results of this worker depend on, besides the request.

    Args:
        config: How the pipeline was loaded.
        weights_digest: Names its weights.
        device: Where it computes.
        dtype: torch's name of the weights' type.
    """
    found = {
        "weights": weights_digest,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "step_control": STEP_CONTROL_FORMAT,
        "dtype": dtype,
        "attention": str(constants.DIFFUSERS_ATTN_BACKEND),
        "compile": str(config.compile),
        "offload": config.offload,
        "vae_slicing": str(config.vae_slicing),
        "vae_tiling": str(config.vae_tiling),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "batch_shape": "single",
    }
    if device.type == "cuda":
        return found | _gpu_facts(device)
    return found | _cpu_facts(device)


def with_adapters(fingerprint: str, uses: Iterable[tuple[str, float]]) -> str:
    """Returns the fingerprint of a run that uses LoRA adapters.

    Args:
        fingerprint: Of the worker.
        uses: sha256 and scale of each adapter.
    """
    used = sorted(f"{digest} {float(scale).hex()}" for digest, scale in uses)
    if not used:
        return fingerprint
    return of({"worker": fingerprint, "adapters": ",".join(used)})


def weights_in_folder(folder: pathlib.Path, *, revision: str) -> str:
    """Returns a digest of a folder of safetensors files.

    It covers names and sizes of all files, their headers, and samples of their tensors: whole
    files would take minutes to read, and headers alone are the same for all fine-tuned
    versions of a model.
    """
    digest = hashlib.sha256(revision.encode())
    for file in sorted(folder.rglob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with file.open("rb") as stream:
            header_size = min(int.from_bytes(stream.read(8), "little"), _MAX_HEADER)
            digest.update(stream.read(header_size))
            for number in range(_SAMPLED_BLOCKS):
                begin = 8 + header_size
                stream.seek(begin + (size - begin) * number // _SAMPLED_BLOCKS)
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()


def weights_in_memory(modules: Mapping[str, torch.nn.Module]) -> str:
    """Returns a digest of modules: names, shapes, types and samples of their tensors."""
    digest = hashlib.sha256()
    for name, module in sorted(modules.items()):
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            if tensor.numel() and tensor.device.type != "meta":
                stride = max(1, tensor.numel() // _SAMPLED_ELEMENTS)
                sample = tensor.detach().reshape(-1)[::stride].cpu().contiguous()
                digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _cpu_facts(device: torch.device) -> dict[str, str]:
    return {
        "device": device.type,
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "onednn": str(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
    }


def _gpu_facts(device: torch.device) -> dict[str, str]:
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device),
        "driver": _driver_version(),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def _cpu_model() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver_version() -> str:
    return next(iter(_lines("/proc/driver/nvidia/version")), "unknown")


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []

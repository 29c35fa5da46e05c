"""The command line and the environment of workers that the engine starts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kubediffusion import _settings, errors

if TYPE_CHECKING:
    from kubediffusion import _config
    from kubediffusion.executors import machine

_RESERVED = ("listen", "name", "parent_fd", "registry", "tls_cert", "tls_key", "tls_ca")
"""Flags that the executor itself decides on."""

_GPU_PATTERN = re.compile(r"nvidia[0-9]+")


def model_flags(config: _config.OmniDiffusionConfig) -> list[str]:
    """Return the flags that say what is loaded and how.

    Raises:
        ConfigError: There is no model, or a worker option makes no sense.
    """
    if not config.model:
        raise errors.ConfigError(
            "model must be a folder, a hub id or 'demo' for workers that the engine starts; "
            "found an empty text"
        )
    flags = ["--model", config.model, "--dtype", config.dtype, "--device", config.device]
    for flag, value in (("--revision", config.revision), ("--variant", config.variant)):
        flags += [flag, value] if value else []
    flags += ["--offload", _offload(config)] if _offload(config) != "none" else []
    flags += [] if config.enforce_eager else ["--compile"]
    flags += ["--vae-slicing"] if config.vae_use_slicing else []
    flags += ["--vae-tiling"] if config.vae_use_tiling else []
    for name, source in _settings.adapter_sources(config).items():
        flags += ["--lora", f"{name}={source}"]
    return [*flags, *_further(config.worker_options)]


def count(config: _config.OmniDiffusionConfig) -> int:
    """Return how many workers there shall be.

    Raises:
        ConfigError: Not a whole number above 0.
    """
    number = config.num_gpus
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise errors.ConfigError(f"num_gpus must be a whole number above 0; found {number!r}")
    return number


def shares(config: _config.OmniDiffusionConfig, shared: machine.Machine) -> list[dict[str, str]]:
    """Return the environment of each worker, by which they share GPUs or cores.

    Raises:
        ConfigError: There are fewer GPUs than workers.
    """
    number = count(config)
    devices = _cuda_devices(shared) if config.device in ("auto", "cuda") else []
    if devices and len(devices) < number:
        raise errors.ConfigError(
            f"num_gpus must be at most {len(devices)}, the CUDA devices that are visible; "
            f"found {number}"
        )
    if not devices and number > 1 and ":" in config.device:
        raise errors.ConfigError(
            f"device must be 'auto' or 'cuda' for num_gpus={number}; found {config.device!r}"
        )
    given = dict(config.worker_environment)
    if devices:
        return [{"CUDA_VISIBLE_DEVICES": devices[rank], **given} for rank in range(number)]
    if _leaves_threads(config, shared):
        return [dict(given) for _ in range(number)]
    # As many as torch takes in each of them would stand in each other's way.
    threads = str(max(1, shared.cores // number))
    return [{"OMP_NUM_THREADS": threads, **given} for _ in range(number)]


def _leaves_threads(config: _config.OmniDiffusionConfig, shared: machine.Machine) -> bool:
    """Tell whether the number of threads is chosen by the user, or best left to torch."""
    if config.threads is not None or "OMP_NUM_THREADS" in shared.environment:
        return True
    # One worker alone gets what torch takes by itself, as a plain pipeline would.
    return config.num_gpus == 1 and not shared.has_quota


def thread_flags(config: _config.OmniDiffusionConfig, share: Mapping[str, str]) -> list[str]:
    """Return the flag that sets a worker's CPU threads, where they are to be set."""
    threads = config.threads
    if threads is None:
        threads = int(share["OMP_NUM_THREADS"]) if "OMP_NUM_THREADS" in share else None
    return [] if threads is None else ["--threads", str(threads)]


def _offload(config: _config.OmniDiffusionConfig) -> str:
    if config.enable_layerwise_offload:
        return "sequential"
    return "model" if config.enable_cpu_offload else "none"


def _further(options: Mapping[str, Any]) -> Iterator[str]:  # Any: see the configuration
    for name, value in options.items():
        flag = name.strip("-").replace("-", "_")
        if flag in _RESERVED:
            raise errors.ConfigError(f"worker_options must not set {name!r}: the executor does")
        for item in value if isinstance(value, list | tuple) else [value]:
            yield from _flag(f"--{flag.replace('_', '-')}", item)


def _flag(flag: str, value: object) -> list[str]:
    if value is True:
        return [flag]
    if value is False or value is None:
        return []
    return [flag, str(value)]


def _cuda_devices(shared: machine.Machine) -> list[str]:
    """Return what each worker's CUDA_VISIBLE_DEVICES may be; nothing without GPU."""
    given = shared.environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        # CUDA itself ignores everything from the first invalid entry on, such as "-1".
        names = [name.strip() for name in given.split(",")]
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]
    files = [name for name in shared.device_files if _GPU_PATTERN.fullmatch(name)]
    return [str(index) for index in range(len(files))]

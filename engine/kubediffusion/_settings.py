"""The checked and frozen form of an engine's configuration.

The only place of the engine that reads environment variables.
"""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

from kubediffusion import errors

if TYPE_CHECKING:
    from kubediffusion import _config

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_JOURNAL_MODES = ("auto", "wal", "rollback")
_POSITIVE = (
    "num_gpus",
    "start_timeout",
    "takeover_seconds",
    "hang_seconds",
    "hang_factor",
    "max_pending",
    "max_pending_bytes",
    "max_attempts",
    "progress_interval",
    "retention_seconds",
    "retention_bytes",
    "result_cache_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPolicy:
    """Which checkpoints an engine keeps."""

    fetch: bool = True
    """Fetch what workers save while generations run; else only what they hand over."""
    keep: int = 2
    """Of each generation; the newest."""
    max_bytes: int = 2_000_000_000
    """Of one checkpoint."""
    total_bytes: int = 20_000_000_000
    """Of all checkpoints in `state_dir`."""
    memory_bytes: int = 1_000_000_000
    """Of all checkpoints in memory, without `state_dir` or where its disk is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the engine's core works with; see `OmniDiffusionConfig` for the meanings."""

    engine_id: str
    model: str
    state_dir: pathlib.Path | None
    journal_mode: str
    adapters: Mapping[str, str]
    """Source by name, of adapters that every worker should have."""
    default_adapters: tuple[tuple[str, float], ...]
    """Name and scale, for requests that name none."""
    step_budget: float | None
    start_timeout: float
    takeover_seconds: float
    hang_seconds: float
    hang_factor: float
    checkpoint: CheckpointPolicy
    max_pending: int
    max_pending_bytes: int
    max_attempts: int
    progress_interval: float
    previews: bool
    keep_results: bool
    retention_seconds: float
    retention_bytes: int
    result_cache_bytes: int


def freeze(config: _config.OmniDiffusionConfig) -> EngineSettings:
    """Check a configuration.

    Raises:
        errors.ConfigError: A value is out of bounds, or two do not go together.
    """
    _check_numbers(config)
    _check_parallel(config.parallel_config)
    if config.dtype not in _DTYPES:
        _refuse("dtype", f"one of {', '.join(_DTYPES)}", config.dtype)
    if config.journal_mode not in _JOURNAL_MODES:
        _refuse("journal_mode", f"one of {', '.join(_JOURNAL_MODES)}", config.journal_mode)
    if config.max_num_seqs != 1:
        _refuse("max_num_seqs", "1, because workers do not batch yet", config.max_num_seqs)
    adapters = adapter_sources(config)
    state_dir = config.state_dir or os.environ.get("KUBEDIFFUSION_STATE_DIR") or None
    return EngineSettings(
        engine_id=engine_id(config),
        model=config.model,
        state_dir=None if state_dir is None else pathlib.Path(state_dir).expanduser(),
        journal_mode=config.journal_mode,
        adapters=adapters,
        default_adapters=tuple((name, config.lora_scale) for name in adapters),
        step_budget=config.step_budget,
        start_timeout=config.start_timeout,
        takeover_seconds=config.takeover_seconds,
        hang_seconds=config.hang_seconds,
        hang_factor=config.hang_factor,
        checkpoint=checkpoint_policy(config.checkpoint),
        max_pending=config.max_pending,
        max_pending_bytes=config.max_pending_bytes,
        max_attempts=config.max_attempts,
        progress_interval=config.progress_interval,
        previews=config.previews,
        keep_results=config.keep_results,
        retention_seconds=config.retention_seconds,
        retention_bytes=config.retention_bytes,
        result_cache_bytes=config.result_cache_bytes,
    )


def engine_id(config: _config.OmniDiffusionConfig) -> str:
    """Return the given engine id, else one that a restarted script gets again.

    Raises:
        errors.ConfigError: It has other characters than an id may have.
    """
    given = config.engine_id or os.environ.get("KUBEDIFFUSION_ENGINE_ID", "")
    if not given:
        folder = pathlib.Path.cwd()
        digest = hashlib.sha256(f"{folder}\0{config.model}".encode()).hexdigest()
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip(".-")[:40] or "engine"
        return f"{name}-{digest[:12]}"
    from kubediffusion_wire import identifiers

    # "." and ".." would be folders other than those they name.
    if not identifiers.is_identifier(given) or not given.strip("."):
        _refuse("engine_id", "1 to 128 characters of [A-Za-z0-9._:-]", given)
    return given


def checkpoint_policy(given: bool | Mapping[str, Any]) -> CheckpointPolicy:
    """Return which checkpoints are kept.

    Raises:
        errors.ConfigError: It has an unknown name, or a value out of bounds.
    """
    if isinstance(given, bool):
        return CheckpointPolicy(fetch=given)
    known = [field.name for field in fields(CheckpointPolicy)]
    for name, value in given.items():
        if name not in known:
            _refuse("checkpoint", f"a mapping with names among {', '.join(known)}", name)
        if name == "fetch" and not isinstance(value, bool):
            _refuse("checkpoint['fetch']", "True or False", value)
        if name != "fetch" and not (type(value) is int and value > 0):
            _refuse(f"checkpoint[{name!r}]", "a whole number above 0", value)
    return CheckpointPolicy(**given)


def adapter_sources(config: _config.OmniDiffusionConfig) -> Mapping[str, str]:
    """Return the sources of `lora_path` by adapter name."""
    given = config.lora_path
    if not given:
        return {}
    if not isinstance(given, str | os.PathLike):
        return dict(given)
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", pathlib.PurePath(given).stem) or "default"
    return {name: os.fspath(given)}


def _check_numbers(config: _config.OmniDiffusionConfig) -> None:
    for name in _POSITIVE:
        value = getattr(config, name)
        if not _is_number(value) or not value > 0:
            _refuse(name, "a number above 0", value)
    budget = config.step_budget
    if budget is not None and (not _is_number(budget) or budget < 0):
        _refuse("step_budget", "None or a number of seconds from 0", budget)
    if not _is_number(config.lora_scale):
        _refuse("lora_scale", "a finite number", config.lora_scale)


def _is_number(value: object) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)  # type: ignore[arg-type] # it is real


def _check_parallel(parallel_config: object | None) -> None:
    """Refuse groups of several GPUs, whichever way they are asked for."""
    if parallel_config is None:
        return
    options = parallel_config if isinstance(parallel_config, Mapping) else vars(parallel_config)
    sizes = {
        name: size
        for name, size in options.items()
        if name.endswith(("_size", "_degree")) and name != "data_parallel_size"
    }
    large = {name: size for name, size in sizes.items() if size not in (None, 1)}
    if large:
        asked = ", ".join(f"{name}={size!r}" for name, size in sorted(large.items()))
        raise errors.ConfigError(
            f"parallel_config asks for {asked}, but groups larger than one are not supported "
            "yet; use num_gpus for independent workers"
        )


def _refuse(name: str, wanted: str, found: object) -> NoReturn:
    raise errors.ConfigError(f"{name} must be {wanted}; found {found!r}")

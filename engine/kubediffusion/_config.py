"""The configuration of an engine, as the user writes it.

Names are those of vLLM-Omni where they mean something here. A field is documented below
it, hence the length of this module. `_settings` checks the values and freezes them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kubediffusion import _names, _upstream, errors

if TYPE_CHECKING:
    from kubediffusion import _settings
    from kubediffusion.executors import abstract
    from kubediffusion_wire import channels

_ALIASES = {
    "backend": "distributed_executor_backend",
    "executor_backend": "distributed_executor_backend",
    "model_path": "model",
    "worker_addresses": "workers",
}


def _unknown(name: str, text: str) -> errors.UnknownNameError:
    return errors.UnknownNameError(text, violations=[errors.Violation(name, text)])


@_names.lenient(error=_unknown, aliases=_ALIASES, ignored=_upstream.IGNORED)
@dataclasses.dataclass(kw_only=True)
class OmniDiffusionConfig:
    """Says which model runs where, and how an engine behaves.

    Fields may be changed until an engine is built from it; the engine then keeps a checked
    and frozen copy. A name that does not exist is refused with the nearest known ones; a
    name of vLLM-Omni that has no effect here is accepted with a warning.
    """

    model: str = ""
    """Local folder, hub id or "demo": what `uni` and `mp` workers load. For workers that
    are managed elsewhere, only those that serve this model are used; empty: any."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""

    variant: str | None = None
    """Variant of the weight files, for example "fp16"."""

    dtype: str = "auto"
    """"auto", "float32", "bfloat16" or "float16"."""

    device: str = "auto"
    """torch's name of the device; "auto" takes a GPU where there is one."""

    num_gpus: int = 1
    """Workers that `mp` starts; on a machine without GPU, the number of processes."""

    parallel_config: object | None = None
    """Mapping or object with sizes of parallel groups; none may be above 1 for now."""

    distributed_executor_backend: str | type[abstract.DiffusionExecutor] = "mp"
    """"mp", "uni", "external_launcher", a dotted path, or a subclass of
    `DiffusionExecutor`."""

    lora_path: str | Mapping[str, str] | None = None
    """A LoRA that every request uses which does not name its own; several by name."""

    lora_scale: float = 1.0
    """Strength of the adapters of `lora_path`."""

    enable_cpu_offload: bool = False
    """Keep whole components in main memory while they are not in use."""

    enable_layerwise_offload: bool = False
    """Keep single layers in main memory while they are not in use: slow, least memory."""

    vae_use_slicing: bool = False
    """Decode one image or frame at a time: less memory."""

    vae_use_tiling: bool = False
    """Decode large images in tiles: less memory, slightly other pixels."""

    enforce_eager: bool = True
    """False compiles the denoiser with torch.compile."""

    max_num_seqs: int = 1
    """Generations that a worker runs at a time; only 1 for now."""

    threads: int | None = None
    """CPU threads of each `mp` worker. None: several workers without GPU share the cores
    evenly, unless OMP_NUM_THREADS is set; one alone takes what torch takes."""

    worker_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further flags of `kubediffusion-worker` for `uni` and `mp`, without the dashes:
    `{"max_queued": 100}`."""  # Any: bool, int, float, str or a list of them

    worker_environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment variables for `mp` workers, added to this process's own."""

    engine_id: str = ""
    """Owner of the generations: an engine that starts with the same id finds those of its
    predecessor. 1 to 128 characters of [A-Za-z0-9._:-]. Empty: the variable
    KUBEDIFFUSION_ENGINE_ID, else derived from the working folder and the model."""

    state_dir: str | os.PathLike[str] | None = None
    """Folder for the journal and for results; the engine's requests and results then
    survive it whatever happens to the workers. None: the variable KUBEDIFFUSION_STATE_DIR,
    else only workers remember."""

    journal_mode: str = "auto"
    """"auto" and "wal" need a local file system; "rollback" is slower, works anywhere."""

    discovery: str | None = None
    """Where `external_launcher` learns of workers: "static" (`workers`) or "registry";
    None: static if there are `workers`, else the registry."""

    workers: Sequence[str] = ()
    """Addresses: "host:port" or "unix:/path"."""

    registry: str | os.PathLike[str] | None = None
    """Folder in which local workers announce themselves; None: the user's own."""

    tls: channels.TlsFiles | None = None
    """Certificate files for TCP connections."""

    insecure: bool = False
    """Allow connections without TLS to other machines."""

    step_budget: float | None = None
    """Seconds that `step` waits unless it is told otherwise; None: without end."""

    start_timeout: float = 600.0
    """Seconds in which a worker must have loaded its model."""

    takeover_seconds: float = 20.0
    """Seconds a worker may be out of reach before its generations go elsewhere."""

    hang_seconds: float = 60.0
    """Seconds without a step from which a denoising loop counts as stuck, and its generation
    goes elsewhere; ten times as many before the first step and after the last one."""

    hang_factor: float = 20.0
    """Steps' worth of time without a step, likewise; the longer of both counts."""

    checkpoint: bool | Mapping[str, Any] = True
    """Which checkpoints this engine fetches from workers, so that generations go on elsewhere
    when their worker dies: "fetch" (False: only what workers hand over), "keep" (of each
    generation, 2), "max_bytes" (of one, 2 GB), "total_bytes" (of all in `state_dir`, 20 GB),
    "memory_bytes" (of all in memory, 1 GB). True: all of these; False: no fetch."""
    # Any: bool or int

    max_pending: int = 20_000
    """Unfinished generations; `submit` beyond it raises `QueueFullError`."""

    max_pending_bytes: int = 1_000_000_000
    """Bytes of the requests of all unfinished generations, likewise."""

    max_attempts: int = 16
    """Attempts in a row that may come to nothing before a generation fails. Those that got
    further than their checkpoint, waited for their turn, or were handed over do not count."""

    progress_interval: float = 0.1
    """Seconds between two progress events of a generation, at least."""

    previews: bool = False
    """Ask workers for preview images."""

    keep_results: bool = True
    """Keep results in `state_dir`, so that they can be asked for again after a restart."""

    retention_seconds: float = 7 * 86_400.0
    """Age at which finished generations and their results are deleted from `state_dir`."""

    retention_bytes: int = 20_000_000_000
    """Bytes of results in `state_dir`; the oldest are deleted first."""

    result_cache_bytes: int = 256_000_000
    """Bytes of results in the engine's memory; those that nobody has asked for yet go to a
    file beyond it."""

    def freeze(self) -> _settings.EngineSettings:
        """Check all values and return what an engine works with.

        Raises:
            ConfigError: A value is out of bounds, or two do not go together.
        """
        from kubediffusion import _settings  # Late: it needs this module's names.

        return _settings.freeze(self)

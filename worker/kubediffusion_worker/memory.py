"""How much memory the process and its device use."""

import pathlib
import resource
import sys
from collections.abc import Mapping

_STATM = pathlib.Path("/proc/self/statm")


def measure() -> Mapping[str, int]:
    """Return bytes by what they are; the device's only where it has memory of its own.

    Call it only after the model has been loaded: before that torch may be half imported.
    """
    return {"process_resident": _resident(), **_device()}


def _resident() -> int:
    if _STATM.exists():
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _device() -> dict[str, int]:
    # Looked up, not imported: importing torch here would take seconds, on the wrong thread.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "device_allocated": torch.cuda.memory_allocated(),
        "device_reserved": torch.cuda.memory_reserved(),
        "device_peak": torch.cuda.max_memory_allocated(),
        "device_free": free,
        "device_total": total,
    }


def empty_cache() -> None:
    """Give memory that torch holds in reserve back to the device; on the compute thread."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

"""What a computation finds around it that is not its own: random generators, torch's modes.

Torch keeps much of it for each thread, numpy and Python for the whole process. A generation
that is parked in the middle takes its own along, so that those that compute meanwhile neither
see nor change it. Context variables are not here, since each greenlet has its own, nor are
filters of warnings, which other threads use.
"""

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

Restore = Callable[[], None]


def set_aside() -> Restore:
    """Leaves all modes that can be left, and returns what makes everything as it was.

    Both belong on one thread. Libraries that are not imported have nothing to set aside.
    """
    restores = [_python()]
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    # A module that is still being imported lacks its last names.
    if numpy is not None and hasattr(numpy, "set_state"):
        restores.append(_numpy(numpy))
    if torch is not None and hasattr(torch, "compile"):
        restores += [_generators(torch), _flags(torch), _inference(torch), _functions(torch)]
    return lambda: _all(restores)


def _all(restores: Sequence[Restore]) -> None:
    for restore in reversed(restores):
        restore()


def _python() -> Restore:
    state = random.getstate()
    return lambda: random.setstate(state)


def _numpy(numpy: Any) -> Restore:  # not imported here, since it may not be there
    state = numpy.get_state(legacy=False)
    return lambda: numpy.set_state(state)


def _generators(torch: Any) -> Restore:
    """Torch's global random generators, and the GPU that is the current one."""
    state = torch.get_rng_state()
    if not torch.cuda.is_initialized():
        return lambda: torch.set_rng_state(state)
    gpu, gpu_states = torch.cuda.current_device(), torch.cuda.get_rng_state_all()

    def restore() -> None:
        torch.set_rng_state(state)
        torch.cuda.set_rng_state_all(gpu_states)
        torch.cuda.set_device(gpu)

    return restore


def _flags(torch: Any) -> Restore:
    """What has a getter and a setter: gradients, autocast, the default type."""
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    cache = torch.is_autocast_cache_enabled()
    autocasts = [
        (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in ("cpu", "cuda")
    ]

    def restore() -> None:
        torch.set_grad_enabled(grad)
        if torch.get_default_dtype() is not dtype:
            torch.set_default_dtype(dtype)
        torch.set_autocast_cache_enabled(cache)
        for kind, is_enabled, kind_dtype in autocasts:
            torch.set_autocast_enabled(kind, is_enabled)
            torch.set_autocast_dtype(kind, kind_dtype)

    return restore


def _inference(torch: Any) -> Restore:
    """Leaves inference mode, which can be entered and left only."""
    if not torch.is_inference_mode_enabled():
        return _nothing
    guard = torch._C._InferenceMode(False)
    guard.__enter__()
    return lambda: guard.__exit__(None, None, None)


def _functions(torch: Any) -> Restore:
    """Leaves what stands in torch's functions, such as a default device."""
    core, holder = torch._C, torch._GLOBAL_DEVICE_CONTEXT
    context = getattr(holder, "device_context", None)
    modes = [core._pop_torch_function_stack() for _ in range(core._len_torch_function_stack())]
    if context is None and not modes:
        return _nothing
    holder.device_context = None

    def restore() -> None:
        holder.device_context = context
        for mode in reversed(modes):
            core._push_on_torch_function_stack(mode)

    return restore


def _nothing() -> None:
    """Restores what was not there."""

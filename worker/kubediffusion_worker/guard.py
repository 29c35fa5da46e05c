"""Puts shared modules back in order after a run that was left in the middle.

Some pipelines change modules while they run and undo it at their end: perturbed attention swaps
attention processors, half-precision VAEs are decoded in float32. A cancelled or failed run does
not reach that end. Everything else about modules is left alone, since libraries build things
on them at their first forward.
"""

from collections.abc import Iterable

import torch

_PROCESSOR = "processor"


class ModuleGuard:
    """Remembers what runs may change in modules."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        """Remembers the modules as they are now."""
        roots = list(modules)
        self._dtypes = [(root, _dtype(root)) for root in roots]
        # Attention layers, which diffusers gives a setter for their processor.
        attentions = {
            id(part): part
            for root in roots
            for part in root.modules()
            if hasattr(part, "set_processor")
        }
        self._processors = [
            (part, getattr(part, _PROCESSOR, None)) for part in attentions.values()
        ]

    def restore(self) -> None:
        """Makes the modules what they were; microseconds where nothing has changed."""
        for module, processor in self._processors:
            if getattr(module, _PROCESSOR, None) is not processor:
                # A module and an object of the same name would hide each other.
                module._modules.pop(_PROCESSOR, None)
                setattr(module, _PROCESSOR, processor)
        for root, dtype in self._dtypes:
            if dtype is not None and _dtype(root) is not dtype:
                root.to(dtype=dtype)


def _dtype(module: torch.nn.Module) -> torch.dtype | None:
    return next((each.dtype for each in module.parameters() if each.is_floating_point()), None)

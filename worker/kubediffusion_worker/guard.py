"""Puts shared modules back in order after a run that was left in the middle, or parked there.

Some pipelines change modules while they run and undo it at their end: perturbed attention swaps
attention processors, half-precision VAEs are decoded in float32. A cancelled or failed run does
not reach that end. Everything else about modules is left alone, since libraries build things
on them at their first forward.
"""

from collections.abc import Callable, Iterable

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
                _set_processor(module, processor)
        for root, dtype in self._changed():
            root.to(dtype=dtype)

    def set_aside(self) -> Callable[[], None] | None:
        """Makes the modules what they were, while a run that is in the middle is parked.

        Returns:
            What makes them again what they were for that run; None where they were left as
            they are, since changing them twice would not give the same bits.
        """
        if self._changed():
            return None
        found = [(module, getattr(module, _PROCESSOR, None)) for module, _ in self._processors]
        self.restore()

        def resume() -> None:
            for module, processor in found:
                if getattr(module, _PROCESSOR, None) is not processor:
                    _set_processor(module, processor)

        return resume

    def _changed(self) -> list[tuple[torch.nn.Module, torch.dtype]]:
        """Returns the modules whose elements have another type, and the one they had."""
        return [
            (root, dtype)
            for root, dtype in self._dtypes
            if dtype is not None and _dtype(root) is not dtype
        ]


def _set_processor(module: torch.nn.Module, processor: object) -> None:
    # A module and an object of the same name would hide each other.
    module._modules.pop(_PROCESSOR, None)
    setattr(module, _PROCESSOR, processor)


def _dtype(module: torch.nn.Module) -> torch.dtype | None:
    return next((each.dtype for each in module.parameters() if each.is_floating_point()), None)

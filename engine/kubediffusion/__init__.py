"""Drive diffusion workers that outlive their engine.

    from kubediffusion import DiffusionEngine, OmniDiffusionConfig, OmniDiffusionRequest

    with DiffusionEngine(OmniDiffusionConfig(model="demo")) as engine:
        output = engine.step(OmniDiffusionRequest("a red circle on a blue background"))
        output.images[0].save("circle.png")

Names are loaded when they are first used, so that importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubediffusion import errors
    from kubediffusion._config import OmniDiffusionConfig
    from kubediffusion._events import GenerationEvent, GenerationState, Progress
    from kubediffusion._generation import AsyncGeneration, Generation
    from kubediffusion._interventions import CheckpointInfo
    from kubediffusion._output import OmniRequestOutput
    from kubediffusion._request import OmniDiffusionRequest
    from kubediffusion._workers import WorkerInfo
    from kubediffusion.aio import AsyncDiffusionEngine
    from kubediffusion.engine import DiffusionEngine
    from kubediffusion.executors.abstract import DiffusionExecutor
    from kubediffusion.executors.external import ExternalDiffusionExecutor
    from kubediffusion.executors.failures import WorkerFailure
    from kubediffusion.executors.multiproc import (
        MultiProcDiffusionExecutor,
        MultiprocDiffusionExecutor,
    )
    from kubediffusion.executors.uniproc import UniProcDiffusionExecutor

    __version__: str

__all__ = [
    "AsyncDiffusionEngine",
    "AsyncGeneration",
    "CheckpointInfo",
    "DiffusionEngine",
    "DiffusionExecutor",
    "ExternalDiffusionExecutor",
    "Generation",
    "GenerationEvent",
    "GenerationState",
    "MultiProcDiffusionExecutor",
    "MultiprocDiffusionExecutor",
    "OmniDiffusionConfig",
    "OmniDiffusionRequest",
    "OmniRequestOutput",
    "Progress",
    "UniProcDiffusionExecutor",
    "WorkerFailure",
    "WorkerInfo",
    "__version__",
    "errors",
]

_MODULES = {
    "AsyncDiffusionEngine": "aio",
    "AsyncGeneration": "_generation",
    "CheckpointInfo": "_interventions",
    "DiffusionEngine": "engine",
    "DiffusionExecutor": "executors.abstract",
    "ExternalDiffusionExecutor": "executors.external",
    "Generation": "_generation",
    "GenerationEvent": "_events",
    "GenerationState": "_events",
    "MultiProcDiffusionExecutor": "executors.multiproc",
    "MultiprocDiffusionExecutor": "executors.multiproc",
    "OmniDiffusionConfig": "_config",
    "OmniDiffusionRequest": "_request",
    "OmniRequestOutput": "_output",
    "Progress": "_events",
    "UniProcDiffusionExecutor": "executors.uniproc",
    "WorkerFailure": "executors.failures",
    "WorkerInfo": "_workers",
}


def __getattr__(name: str) -> object:
    """Load a public name; see PEP 562."""
    if name == "errors":
        return importlib.import_module("kubediffusion.errors")
    if name == "__version__":
        return _version()
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("kubediffusion")

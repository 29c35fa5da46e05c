"""What the package exports, and what importing it loads."""

import subprocess
import sys

import kubediffusion
from kubediffusion import errors
from kubediffusion_wire import errors as wire_errors

PUBLIC = [
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
"""Frozen: taking a name away breaks users."""

HEAVY = {
    "PIL",
    "diffusers",
    "google.protobuf",
    "grpc",
    "kubediffusion_worker",
    "kubernetes",
    "kopf",
    "numpy",
    "rich",
    "torch",
}


def loaded_by(code: str) -> set[str]:
    """Return which heavy packages some code loads in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(ended.stdout.split()) & HEAVY


def test_exports_are_sorted_and_as_promised() -> None:
    assert kubediffusion.__all__ == PUBLIC == sorted(PUBLIC)


def test_every_export_can_be_had() -> None:
    for name in PUBLIC:
        assert getattr(kubediffusion, name) is not None
    assert set(dir(kubediffusion)) >= set(PUBLIC)


def test_what_is_not_exported_is_an_error() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from kubediffusion import Nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot import name 'Nothing'" in ended.stderr


def test_all_errors_are_exported() -> None:
    own = {
        name
        for name, value in vars(wire_errors).items()
        if isinstance(value, type) and issubclass(value, wire_errors.KubediffusionError)
    }
    assert own <= set(errors.__all__)
    assert errors.__all__ == sorted(errors.__all__)


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import kubediffusion") == set()


def test_config_and_request_load_nothing_heavy() -> None:
    code = (
        "from kubediffusion import OmniDiffusionConfig, OmniDiffusionRequest, errors\n"
        "OmniDiffusionConfig(model='demo').freeze(); OmniDiffusionRequest('p')"
    )
    assert loaded_by(code) == set()


def test_engine_class_loads_neither_numpy_nor_pillow_nor_torch() -> None:
    code = "from kubediffusion import AsyncDiffusionEngine, DiffusionEngine, OmniRequestOutput"
    assert loaded_by(code) <= {"google.protobuf", "grpc"}


def test_start_of_an_engine_loads_what_the_wire_needs_and_no_more() -> None:
    code = (
        "from kubediffusion import DiffusionEngine\n"
        "with DiffusionEngine(distributed_executor_backend='external_launcher',"
        " workers=['unix:/nowhere.sock']): pass"
    )
    assert loaded_by(code) == {"google.protobuf", "grpc"}

"""What a worker leaves behind that ends because its device has failed: when, what, who.

A line in the log, and a small file that a person or an operator finds after the process is
gone. Neither holds anything of a request.
"""

import contextlib
import json
import logging
import os
import pathlib
import time

from kubediffusion_worker import conductor, config, views

logger = logging.getLogger(__name__)


def record(settings: config.ProcessConfig, incarnation: str, failure: conductor.Failure) -> None:
    """Write what is known of a failure; a folder that cannot be written to does not matter."""
    facts = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "name": settings.worker.name,
        "incarnation": incarnation,
        "pid": os.getpid(),
        "model": views.model_id(settings.worker.model.model),
        "kind": failure.kind,
        "error": failure.error,
    }
    logger.error("Worker crashed", extra={"crash": facts})
    path = place(settings)
    if path is not None:
        with contextlib.suppress(OSError):
            _write(path, json.dumps(facts, indent=2) + "\n")


def place(settings: config.ProcessConfig) -> pathlib.Path | None:
    """Return where the record lies: beside the checkpoints, or beside the registry's entry."""
    folder = settings.worker.checkpoint_folder or settings.registry
    return folder / f"{settings.worker.name}.crash" if folder else None


def _write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    temporary.rename(path)

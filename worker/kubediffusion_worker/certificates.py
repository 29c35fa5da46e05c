"""Keeps certificates in the user's cache, so that a worker's next start need not try again."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import tempfile
from typing import cast

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import certification

FORMAT = 1
"""Raised when trials become stricter, so that older certificates count no more."""

_MAX_BYTES = 10_000


def default_folder() -> pathlib.Path:
    """Returns the folder of certificates in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "kubediffusion" / "certificates"


def recall(folder: pathlib.Path, fingerprint: str) -> certification.Certificate | None:
    """Returns the certificate of a fingerprint; None where there is none that can be read."""
    try:
        file = _file(folder, fingerprint)
        if file.stat().st_size > _MAX_BYTES:
            return None
        facts = json.loads(file.read_text("utf-8"))
        if facts["fingerprint"] != fingerprint:
            return None
        resume = worker_pb2.ResumeCapability.Value(facts["resume"])
        return certification.Certificate(
            # At run time the type of the wire is an integer.
            resume=cast("worker_pb2.ResumeCapability", resume),
            reason=str(facts["reason"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(
    folder: pathlib.Path, fingerprint: str, certificate: certification.Certificate
) -> None:
    """Writes a certificate; does nothing where the folder cannot be written."""
    facts = {
        "fingerprint": fingerprint,
        "resume": worker_pb2.ResumeCapability.Name(certificate.resume),
        "reason": certificate.reason,
    }
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Written beside and renamed, so that nobody reads half of it.
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            json.dump(facts, file)
        os.replace(file.name, _file(folder, fingerprint))


def _file(folder: pathlib.Path, fingerprint: str) -> pathlib.Path:
    release = importlib.metadata.version("kubediffusion")
    name = hashlib.sha256(f"{FORMAT} {release} {fingerprint}".encode()).hexdigest()
    return folder / f"{name}.json"

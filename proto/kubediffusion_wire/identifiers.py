"""Ids of requests, engines and workers, and what is derived from them."""

import hashlib
import re
import uuid
from typing import TYPE_CHECKING

from kubediffusion_wire import errors

if TYPE_CHECKING:
    from kubediffusion_proto.v1 import worker_pb2

MAX_LENGTH = 128
"""Characters of an id, at most."""

_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SEED_DOMAIN = b"kubediffusion seed 1"


def is_identifier(text: str) -> bool:
    """Tells whether a text is 1 to 128 characters of `[A-Za-z0-9._:-]`."""
    return _PATTERN.fullmatch(text) is not None


def check_request_id(text: str) -> None:
    """Refuses a request id that is not 1 to 128 characters of `[A-Za-z0-9._:-]`.

    Raises:
        errors.InvalidRequestError: It is not.
    """
    check_identifier(text, field="request_id")


def check_engine_id(text: str) -> None:
    """Refuses an engine id that is not 1 to 128 characters of `[A-Za-z0-9._:-]`.

    Raises:
        errors.InvalidRequestError: It is not.
    """
    check_identifier(text, field="engine_id")


def check_identifier(text: str, *, field: str) -> None:
    """Refuses an id of any other kind; `field` is its name in the error.

    Raises:
        errors.InvalidRequestError: It is not 1 to 128 characters of `[A-Za-z0-9._:-]`.
    """
    if is_identifier(text):
        return
    wanted = f"must be 1 to {MAX_LENGTH} characters of letters, digits, '.', '_', ':' and '-'"
    found = repr(text) if len(text) <= 2 * MAX_LENGTH else f"{len(text)} characters"
    raise errors.InvalidRequestError.at(field, f"{wanted}; found {found}")


def derive_seed(engine_id: str, request_id: str) -> int:
    """Returns the seed of a generation that names none.

    It depends on the ids alone, so that a resubmitted generation draws the same noise.

    Returns:
        An integer in [0, 2**63).
    """
    text = b"\0".join([_SEED_DOMAIN, engine_id.encode(), request_id.encode()])
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def spec_digest(spec: "worker_pb2.GenerationSpec") -> str:
    """Returns the sha256, hexadecimal, of what the user asked for."""
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()


def new_request_id() -> str:
    """Returns a request id that nobody else has."""
    return uuid.uuid4().hex


def new_incarnation() -> str:
    """Returns a name for one life of a process."""
    return str(uuid.uuid4())

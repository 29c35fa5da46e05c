"""Who asks, and about which generation."""

import enum
from dataclasses import dataclass
from typing import NamedTuple

from kubediffusion_proto.v1 import worker_pb2


class GenerationKey(NamedTuple):
    """The address of a generation on a worker."""

    engine_id: str
    request_id: str


class Role(enum.IntEnum):
    """What a caller may do; the numbers are those of the wire."""

    UNSPECIFIED = worker_pb2.ROLE_UNSPECIFIED
    ENGINE = worker_pb2.ROLE_ENGINE
    OBSERVER = worker_pb2.ROLE_OBSERVER
    OPERATOR = worker_pb2.ROLE_OPERATOR


class Epoch(NamedTuple):
    """One start of an engine; the order of these decides who owns its generations."""

    number: int
    instance: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """The sender of a call, as it describes itself."""

    engine_id: str
    epoch: Epoch
    role: Role = Role.ENGINE

    @property
    def is_owner(self) -> bool:
        """Whether this caller speaks as the engine of its id.

        A caller that names no role owns what it writes, so that a plain client needs no
        more than an engine id.
        """
        return self.role in (Role.ENGINE, Role.UNSPECIFIED)


def caller_of(message: worker_pb2.Caller) -> Caller:
    """Read a caller off the wire; a role from a newer protocol counts as an observer."""
    known = {int(role) for role in Role}
    return Caller(
        engine_id=message.engine_id,
        epoch=Epoch(message.epoch, message.instance),
        role=Role(message.role) if message.role in known else Role.OBSERVER,
    )

"""Calling a method by name on the workers of an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kubediffusion._links import protocol
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, values

T = TypeVar("T")


def check_rank(rank: int, size: int) -> int:
    """Return a rank that exists among `size` workers.

    Raises:
        ValueError: It does not.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < size:
        raise ValueError(f"unique_reply_rank must be from 0 to {size - 1}; found {rank!r}")
    return rank


async def call_all(
    links: Sequence[protocol.WorkerLink],
    method: str,
    *,
    timeout: float | None = None,
    args: Sequence[Any] = (),  # Any: whatever `Value` can carry
    kwargs: Mapping[str, Any] | None = None,
    unique_reply_rank: int | None = None,
    caller: worker_pb2.Caller | None = None,
) -> Any:
    """Call a method on every worker at the same time, or on one.

    Args:
        links: In the order of ranks.
        method: On the workers' allow-list.
        timeout: In seconds; None stands for each link's own.
        args: Positional arguments.
        kwargs: Keyword arguments.
        unique_reply_rank: Call this rank only.
        caller: Who calls; None stands for a person.

    Returns:
        One value for each rank, in order, or the one rank's.

    Raises:
        NoWorkerError: There is no worker.
        KubediffusionError: A worker refused or failed; the first by rank.
    """
    if not links:
        raise errors.NoWorkerError(f"cannot call {method!r}: no worker is connected")
    ranks: Sequence[int] = range(len(links))
    if unique_reply_rank is not None:
        ranks = [check_rank(unique_reply_rank, len(links))]
    replies = await asyncio.gather(
        *(_call(links[rank], method, args, kwargs or {}, timeout, caller) for rank in ranks),
        return_exceptions=True,
    )
    results = [
        _result(reply, links[rank], rank) for rank, reply in zip(ranks, replies, strict=True)
    ]
    return results if unique_reply_rank is None else results[0]


async def _call(
    link: protocol.WorkerLink,
    method: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    timeout: float | None,
    caller: worker_pb2.Caller | None,
) -> Any:
    if isinstance(link, protocol.PythonCaller):
        return await link.call_python(method, args, kwargs, timeout)
    request = worker_pb2.CallMethodRequest(
        caller=caller or worker_pb2.Caller(role=worker_pb2.ROLE_OPERATOR),
        method=method,
        args=[values.encode(value, field=f"args[{i}]") for i, value in enumerate(args)],
        kwargs={name: values.encode(value, field=name) for name, value in kwargs.items()},
    )
    response = await link.call_method(request, timeout)
    return values.decode(response.value)


def _result(reply: T | BaseException, link: protocol.WorkerLink, rank: int) -> T:
    """Return a reply; raise it with a note on its worker where it is an error."""
    if isinstance(reply, BaseException):
        reply.add_note(f"on rank {rank}, worker {link.name!r} at {link.address}")
        raise reply
    return reply

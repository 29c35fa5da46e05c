"""Looks at workers without being their engine: nothing here acknowledges or fences."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from kubediffusion._links import protocol
from kubediffusion.cli import observations
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

_RETRY_DELAY = 0.5
"""In seconds, between two tries to find a generation whose worker fell silent."""

_PATIENCE = 20.0
"""In seconds; after it, a silent worker's generation would have been taken over."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A generation, and the link to the worker that holds it."""

    link: protocol.WorkerLink
    generation: worker_pb2.Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A worker that did not answer, and why."""

    address: str
    error: errors.KubediffusionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What the workers that answered hold, and which did not answer."""

    sightings: tuple[Sighting, ...]
    silences: tuple[Silence, ...]


async def describe(link: protocol.WorkerLink, *, now: float) -> observations.WorkerView:
    """Ask a worker for its description; a silent one is described as UNREACHABLE."""
    try:
        answer = await link.get_worker()
    except errors.KubediffusionError as error:
        return observations.WorkerView(
            name=link.name, address=link.address, state="UNREACHABLE", problem=error.message
        )
    return observations.worker_view(link.address, answer.worker, now=now)


async def survey(links: Sequence[protocol.WorkerLink], engine_id: str = "") -> Survey:
    """Ask all workers for their generations.

    Args:
        links: The workers.
        engine_id: Of this engine only; empty means of all.

    Raises:
        kubediffusion_wire.errors.KubediffusionError: Not one worker answered.
    """
    answers = await asyncio.gather(*(_listed(link, engine_id) for link in links))
    silences = tuple(answer for answer in answers if isinstance(answer, Silence))
    if silences and len(silences) == len(links):
        raise silences[0].error
    sightings = tuple(s for answer in answers if not isinstance(answer, Silence) for s in answer)
    return Survey(sightings=sightings, silences=silences)


async def _listed(link: protocol.WorkerLink, engine_id: str) -> tuple[Sighting, ...] | Silence:
    request = worker_pb2.ListGenerationsRequest(engine_id=engine_id)
    try:
        return tuple(
            [
                Sighting(link, generation)
                async for page in link.list_generations(request)
                for generation in page.generations
            ]
        )
    except errors.KubediffusionError as error:
        return Silence(address=link.address, error=error)


async def locate(
    links: Sequence[protocol.WorkerLink], request_id: str, engine_id: str = ""
) -> Sighting:
    """Find a generation by its id.

    Raises:
        kubediffusion_wire.errors.GenerationNotFoundError: No worker holds it.
        kubediffusion_wire.errors.InvalidRequestError: Several engines use the id.
    """
    found = await survey(links, engine_id)
    return choose(found.sightings, request_id, silent=len(found.silences))


def choose(sightings: Sequence[Sighting], request_id: str, *, silent: int = 0) -> Sighting:
    """Choose what a request id means, where an engine's newest attempt counts.

    Args:
        sightings: All generations that the workers hold.
        request_id: The id that was asked for.
        silent: How many workers did not answer.

    Raises:
        kubediffusion_wire.errors.GenerationNotFoundError: No worker holds it.
        kubediffusion_wire.errors.InvalidRequestError: Several engines use the id.
    """
    matches = [s for s in sightings if s.generation.request_id == request_id]
    engines = sorted({s.generation.engine_id for s in matches})
    if not matches:
        unsure = f"; {silent} more did not answer" if silent else ""
        raise errors.GenerationNotFoundError(
            f"no worker that answers holds generation {request_id!r}{unsure}"
        )
    if len(engines) > 1:
        raise errors.InvalidRequestError(
            f"{len(engines)} engines have a generation {request_id!r}: {', '.join(engines)};"
            " say which with --engine-id"
        )
    return max(matches, key=lambda s: (s.generation.attempt, not _is_handed_over(s)))


def _is_handed_over(sighting: Sighting) -> bool:
    return sighting.generation.state == worker_pb2.GENERATION_STATE_HANDED_OVER


def caller(engine_id: str, role: worker_pb2.Role) -> worker_pb2.Caller:
    """Say who calls: the command line never calls as an engine."""
    return worker_pb2.Caller(engine_id=engine_id, role=role)


async def events(
    links: Sequence[protocol.WorkerLink],
    request_id: str,
    engine_id: str = "",
    *,
    has_previews: bool = False,
) -> AsyncIterator[worker_pb2.GenerationEvent]:
    """Replay and follow a generation's events until its end, across lost connections.

    Args:
        links: The workers.
        request_id: The generation.
        engine_id: Of this engine; empty means of whichever has it.
        has_previews: Get preview images too.

    Raises:
        kubediffusion_wire.errors.KubediffusionError: It is not there, or no worker
            answered for 20 s.
    """
    seen: dict[str, int] = {}
    silent_since: float | None = None
    while True:
        failure: errors.KubediffusionError | None = None
        try:
            sighting = await locate(links, request_id, engine_id)
            async for event in _stream(sighting, seen, has_previews=has_previews):
                silent_since = None
                yield event
                if is_terminal(event):
                    return
        except errors.RetryElsewhereError as error:
            failure = error
        except errors.GenerationNotFoundError as error:
            # A generation that was there and is not any more is about to be moved.
            if not seen:
                raise
            failure = error
        now = asyncio.get_running_loop().time()
        silent_since = silent_since or now
        if now - silent_since > _PATIENCE:
            raise failure or errors.NoWorkerError(
                f"generation {request_id!r} was handed over, and no worker has taken it"
            )
        await asyncio.sleep(_RETRY_DELAY)


async def _stream(
    sighting: Sighting, seen: dict[str, int], *, has_previews: bool
) -> AsyncIterator[worker_pb2.GenerationEvent]:
    # Sequences belong to an incarnation, hence to a link; `seen` is by its name.
    link, generation = sighting.link, sighting.generation
    request = worker_pb2.WatchGenerationsRequest(
        caller=caller(generation.engine_id, worker_pb2.ROLE_OBSERVER),
        request_ids=[generation.request_id],
        after_sequences={generation.request_id: seen.get(link.address, 0)},
        until_terminal=True,
        previews=has_previews,
    )
    async for response in link.watch_generations(request):
        for event in response.events:
            seen[link.address] = event.sequence
            yield event


def is_terminal(event: worker_pb2.GenerationEvent) -> bool:
    """Tell whether the event is a generation's last one, on whatever worker."""
    return event.WhichOneof("event") in ("succeeded", "failed", "cancelled")


async def cancel(sighting: Sighting) -> str:
    """Ask for a cancel as a person, who fences no engine, and answer the state."""
    answer = await sighting.link.cancel_generation(
        worker_pb2.CancelGenerationRequest(
            caller=operator(sighting), request_id=sighting.generation.request_id
        )
    )
    return observations.generation_state(answer.state)


async def pause(sighting: Sighting) -> str:
    """Ask for a generation to be parked, as a person, and answer the state."""
    answer = await sighting.link.pause_generation(
        worker_pb2.PauseGenerationRequest(
            caller=operator(sighting), request_id=sighting.generation.request_id
        )
    )
    return observations.generation_state(answer.state)


async def unpause(sighting: Sighting) -> str:
    """Let a parked generation go on, as a person, and answer the state."""
    answer = await sighting.link.unpause_generation(
        worker_pb2.UnpauseGenerationRequest(
            caller=operator(sighting), request_id=sighting.generation.request_id
        )
    )
    return observations.generation_state(answer.state)


def operator(sighting: Sighting) -> worker_pb2.Caller:
    """Say that a person asks, about a generation of whoever it belongs to."""
    return caller(sighting.generation.engine_id, worker_pb2.ROLE_OPERATOR)

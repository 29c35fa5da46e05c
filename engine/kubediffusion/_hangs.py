"""Finding generations whose worker is within reach and whose compute thread does not move.

A generation that is silent is no proof: it may wait for others on the same device. So the
worker is asked how long ago anything that runs there made progress, whoever owns it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from kubediffusion import _events, _stimuli, _tracker, errors
from kubediffusion_proto.v1 import worker_pb2

if TYPE_CHECKING:
    from kubediffusion import _record, _session, _settings

logger = logging.getLogger(__name__)

MAX_PAUSE = 5.0
"""Seconds between two looks, at most."""

OTHER_PHASES = 10.0
"""How much longer the silence may be before the first step and after the last one: encoding,
first steps that compile, decoding."""


COMPILING = 3.0
"""How much longer still where the first steps compile the model."""


class Host(Protocol):
    """What the watch needs of the engine's core."""

    @property
    def sessions(self) -> tuple[_session.Session, ...]:
        """The conversations with workers."""
        ...

    def unfinished(self) -> Iterable[_record.Record]:
        """Return all requests that have not ended."""
        ...

    def feed(self, record: _record.Record, stimulus: _stimuli.Stimulus) -> None:
        """Tell a tracker what happened and carry out what it says."""
        ...


class HangWatch:
    """Looks at what runs, again and again.

    Args:
        host: The engine's core.
        settings: Limits.
    """

    def __init__(self, host: Host, settings: _settings.EngineSettings) -> None:
        self._host = host
        self._settings = settings

    async def run(self) -> None:
        """Look until cancelled."""
        pause = min(MAX_PAUSE, self._settings.hang_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        now = time.monotonic()
        silent: dict[str, list[_record.Record]] = {}
        for record in self._host.unfinished():
            seat = record.tracker.seat
            if seat is not None and is_silent(record, now, self._settings):
                silent.setdefault(seat.incarnation, []).append(record)
        for session in self._host.sessions:
            suspects = silent.get(session.worker.incarnation, [])
            if suspects and session.is_attached:
                await self._ask(session, suspects)

    async def _ask(self, session: _session.Session, suspects: list[_record.Record]) -> None:
        """Give up what a worker has if it confirms that nothing moves there."""
        request = worker_pb2.ListGenerationsRequest(states=[worker_pb2.GENERATION_STATE_RUNNING])
        running: list[worker_pb2.Generation] = []
        try:
            async for page in session.link.list_generations(request):
                running += page.generations
        except errors.KubediffusionError:
            return  # Its session will find out.
        is_compiling = session.worker.fingerprint_facts.get("compile") == "True"
        if not running or any(is_moving(each, self._settings, is_compiling) for each in running):
            return
        seat, now = session.seat, time.monotonic()
        for record in suspects:
            if record.tracker.seat == seat and is_silent(record, now, self._settings):
                session.is_hung = True
                logger.warning(
                    "generation hangs and goes elsewhere",
                    extra={"generation": record.request_id, "worker": seat.worker},
                )
                self._host.feed(record, _stimuli.Hung(seat))


def is_silent(record: _record.Record, now: float, settings: _settings.EngineSettings) -> bool:
    """Tell whether a generation that runs has not been heard of for too long."""
    tracker = record.tracker
    is_running = (
        tracker.phase is _tracker.Phase.RUNNING
        and tracker.is_started
        and record.state is _events.GenerationState.RUNNING
    )
    if not is_running:
        return False
    fresh = tracker.step - tracker.resumed_from
    is_decoding = 0 < tracker.total <= tracker.step
    allowed = limit(settings, 0 if is_decoding else fresh, record.step_seconds)
    return now - record.heard > allowed


def is_moving(
    generation: worker_pb2.Generation,
    settings: _settings.EngineSettings,
    is_compiling: bool,
) -> bool:
    """Tell whether a generation, by its worker's own word, has made progress lately."""
    progress = generation.progress
    is_decoding = 0 < progress.total <= progress.step
    allowed = limit(settings, 0 if is_decoding else progress.step, progress.seconds_per_step)
    if is_compiling and progress.step < 2:
        allowed *= COMPILING
    return generation.progress_age.ToNanoseconds() / 1e9 <= allowed


def limit(settings: _settings.EngineSettings, steps: int, step_seconds: float) -> float:
    """Return the seconds for which a generation may make no progress.

    Args:
        settings: Of the engine.
        steps: That it has taken in this life; 0 also while it encodes or decodes.
        step_seconds: That one takes.
    """
    # The first steps may compile, or load what later ones find in place.
    if steps < 2:
        return settings.hang_seconds * OTHER_PHASES
    return max(settings.hang_seconds, settings.hang_factor * step_seconds)

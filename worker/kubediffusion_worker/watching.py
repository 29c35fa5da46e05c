"""Watches: streams that replay and follow the events of many generations.

A watch keeps a position for each generation and a set of those that have news. What is sent
next is pulled from the rings when the client is ready for it, so that a slow client holds up
nobody and costs no memory beyond its positions.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, identifiers
from kubediffusion_worker import generation, identity, lifecycle, ring

MAX_EVENTS = 256
"""Events in one message."""

MAX_EVENT_BYTES = 1_000_000
"""Bytes of events from which a message is full: one more event stays below 8 MB."""

LOAD_SECONDS = 1.0
"""Between two messages that tell the load."""

DEFAULT_INTERVAL = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a watch was asked for."""

    engine_id: str
    request_ids: frozenset[str] = frozenset()
    """Empty: everything of the engine id."""
    after: dict[str, int]
    """The sequence numbers that the client has."""
    min_interval: float = DEFAULT_INTERVAL
    until_terminal: bool = False
    wants_previews: bool = False


def wanted(request: worker_pb2.WatchGenerationsRequest) -> Wanted:
    """Read a request whose caller has been checked.

    Raises:
        InvalidRequestError: An id is none, or the interval makes no sense.
    """
    for request_id in request.request_ids:
        identifiers.check_identifier(request_id, field="request_ids")
    interval = DEFAULT_INTERVAL
    if request.HasField("min_interval"):
        interval = request.min_interval.seconds + request.min_interval.nanos * 1e-9
    if not 0 <= interval <= 3600:
        raise errors.InvalidRequestError.at(
            "min_interval", f"must be from 0 to 3600 seconds; found {interval}"
        )
    return Wanted(
        engine_id=request.caller.engine_id,
        request_ids=frozenset(request.request_ids),
        after=dict(request.after_sequences),
        min_interval=interval,
        until_terminal=request.until_terminal,
        wants_previews=request.previews,
    )


class Watch:
    """One stream. Everything but `responses` is plain bookkeeping."""

    def __init__(
        self, number: int, asked: Wanted, machine: lifecycle.Lifecycle, incarnation: str
    ) -> None:
        self.number = number
        self.engine_id = asked.engine_id
        self.error: errors.KubediffusionError | None = None
        self._asked = asked
        self._machine = machine
        self._incarnation = incarnation
        self._readers: dict[identity.GenerationKey, ring.Reader] = {}
        # Those that have news, in the order in which they got them.
        self._dirty: dict[identity.GenerationKey, None] = dict.fromkeys(self._past())
        self._held: dict[identity.GenerationKey, float] = {}
        self._sent_state = worker_pb2.WORKER_STATE_UNSPECIFIED
        self._sent_load: worker_pb2.WorkerLoad | None = None
        self._load_due = -math.inf
        self._is_load_dirty = True
        self._is_live = False
        self._wake = asyncio.Event()
        self.on_idle: Callable[[], None] = lambda: None
        """Called whenever the client has been given everything."""

    @property
    def is_caught_up(self) -> bool:
        """Whether the client has been given everything so far."""
        return not self._dirty and not self._held and self._is_live

    def notify(self, key: identity.GenerationKey) -> None:
        """Note that a generation has a new event."""
        if self._is_wanted(key):
            self._dirty[key] = None
            self._wake.set()

    def shows_previews_of(self, key: identity.GenerationKey) -> bool:
        """Whether the client looks at previews of a generation."""
        return self._asked.wants_previews and self._is_wanted(key)

    def notify_load(self, *, is_urgent: bool) -> None:
        """Note that the load of the worker may have changed, or, urgently, its state."""
        if is_urgent or not self._is_load_dirty:
            self._is_load_dirty = True
            self._wake.set()

    def forget(self, key: identity.GenerationKey) -> None:
        """Note that a generation was released."""
        if key not in self._dirty:
            self._readers.pop(key, None)
        self._wake.set()

    def end(self, error: errors.KubediffusionError) -> None:
        """End the stream with an error, after what is there has been sent."""
        self.error = error
        self._wake.set()

    async def responses(
        self, clock: Callable[[], float]
    ) -> AsyncGenerator[worker_pb2.WatchGenerationsResponse, None]:
        """Yield what the client is to be told, as fast as it takes it.

        Raises:
            KubediffusionError: The watch has to end.
        """
        while True:
            self._wake.clear()
            response = self.next(clock())
            if response is not None:
                yield response
                continue
            if self._asked.until_terminal and self._is_complete():
                return
            if self.error is not None:
                raise self.error
            self.on_idle()
            await self._sleep(self.due() - clock())

    def next(self, now: float) -> worker_pb2.WatchGenerationsResponse | None:
        """Compose the next message; None where there is nothing to tell now."""
        response = worker_pb2.WatchGenerationsResponse()
        is_first = self._sent_load is None
        if is_first:
            response.incarnation = self._incarnation
        else:
            self._add_events(response, now)
        self._add_worker(response, now)
        has_content = response.ByteSize() > 0
        if not (is_first or self._is_live or self._dirty):
            self._is_live = has_content = True
        response.is_live = self._is_live
        return response if has_content else None

    def due(self) -> float:
        """Return when there will be something to tell without further news."""
        load = self._load_due if self._is_load_dirty else math.inf
        return min(load, *self._held.values(), math.inf)

    def _past(self) -> Iterable[identity.GenerationKey]:
        asked = self._asked
        if not asked.request_ids:
            return [found.key for found in self._machine.of_engine(asked.engine_id)]
        keys = [identity.GenerationKey(asked.engine_id, name) for name in asked.request_ids]
        for key in keys:
            if key not in self._machine.tombstones:
                self._machine.find(key)
        return keys

    def _is_wanted(self, key: identity.GenerationKey) -> bool:
        names = self._asked.request_ids
        return key.engine_id == self.engine_id and (not names or key.request_id in names)

    def _add_events(self, response: worker_pb2.WatchGenerationsResponse, now: float) -> None:
        for key in [key for key, due in self._held.items() if due <= now]:
            del self._held[key]
            self._dirty[key] = None
        size = 0
        while self._dirty and len(response.events) < MAX_EVENTS and size < MAX_EVENT_BYTES:
            key = next(iter(self._dirty))
            del self._dirty[key]
            events = self._pull(key, now)
            response.events.extend(events)
            size += sum(event.ByteSize() for event in events)

    def _pull(
        self, key: identity.GenerationKey, now: float
    ) -> Iterable[worker_pb2.GenerationEvent]:
        found = self._machine.generations.get(key)
        self._held.pop(key, None)
        if found is None:
            return self._last_words(key)
        pull = ring.pull(found.events, self._reader(key, found), now)
        self._readers[key] = pull.reader
        if pull.due is not None:
            self._held[key] = pull.due
        return pull.events

    def _reader(self, key: identity.GenerationKey, found: generation.Generation) -> ring.Reader:
        known = self._readers.get(key)
        if known is not None:
            return known
        after = self._asked.after.get(key.request_id, 0)
        # A number from the future is one of another incarnation: it means nothing here.
        return ring.Reader(
            sequence=after if after <= found.events.last_sequence else 0,
            min_interval=self._asked.min_interval,
            wants_previews=self._asked.wants_previews,
        )

    def _last_words(self, key: identity.GenerationKey) -> Iterable[worker_pb2.GenerationEvent]:
        """Tell how a generation ended that was released before the client was told."""
        stone = self._machine.tombstones.get(key)
        reader = self._readers.pop(key, None)
        has = reader.sequence if reader else self._asked.after.get(key.request_id, 0)
        if stone is None or has >= stone.last_event.sequence:
            return []
        if has + 1 == stone.last_event.sequence:
            return [stone.last_event]
        return [ring.gap(stone.last_event), stone.last_event]

    def _add_worker(self, response: worker_pb2.WatchGenerationsResponse, now: float) -> None:
        if not self._is_load_dirty:
            return
        state = self._machine.worker_state
        if state != self._sent_state:
            self._sent_state = response.state = state
        if now < self._load_due:
            return
        self._is_load_dirty = False
        load = self._machine.load(now)
        if load != self._sent_load:
            response.load.CopyFrom(load)
            self._sent_load = load
            self._load_due = now + LOAD_SECONDS

    def _is_complete(self) -> bool:
        """Whether every generation in question has told its end."""
        asked = self._asked
        if asked.request_ids:
            keys = [identity.GenerationKey(asked.engine_id, name) for name in asked.request_ids]
            ours = [self._machine.generations[k] for k in keys if k in self._machine.generations]
        else:
            ours = self._machine.of_engine(asked.engine_id)
        return self.is_caught_up and all(found.is_ended for found in ours)

    async def _sleep(self, seconds: float) -> None:
        """Wait for news; a timer is cheaper than a task for each wait."""
        timer = None
        if seconds < math.inf:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(max(0.0, seconds), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()


class Watches:
    """All open watches of a worker."""

    def __init__(self) -> None:
        self._by_number: dict[int, Watch] = {}
        self._by_engine: dict[str, set[Watch]] = {}
        self._progress = asyncio.Event()

    def __len__(self) -> int:
        return len(self._by_number)

    async def caught_up(self, timeout: float) -> None:
        """Wait until every client has been given everything so far, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not all(watch.is_caught_up for watch in self._by_number.values()):
                    self._progress.clear()
                    await self._progress.wait()

    def add(self, watch: Watch) -> None:
        """Follow events for a watch from now on."""
        watch.on_idle = self._progress.set
        self._by_number[watch.number] = watch
        self._by_engine.setdefault(watch.engine_id, set()).add(watch)

    def remove(self, watch: Watch) -> None:
        """Forget a watch that is over."""
        self._progress.set()
        del self._by_number[watch.number]
        watches = self._by_engine[watch.engine_id]
        watches.remove(watch)
        if not watches:
            del self._by_engine[watch.engine_id]

    def notify(self, key: identity.GenerationKey) -> None:
        """Tell the watches concerned that a generation has a new event."""
        for watch in self._by_engine.get(key.engine_id, ()):
            watch.notify(key)

    def show_previews_of(self, key: identity.GenerationKey) -> bool:
        """Whether any client looks at previews of a generation."""
        watches = self._by_engine.get(key.engine_id, ())
        return any(watch.shows_previews_of(key) for watch in watches)

    def forget(self, key: identity.GenerationKey) -> None:
        """Tell the watches concerned that a generation was released."""
        for watch in self._by_engine.get(key.engine_id, ()):
            watch.forget(key)

    def notify_load(self, *, is_urgent: bool) -> None:
        """Tell all watches that load, or urgently the state, may have changed."""
        for watch in self._by_number.values():
            watch.notify_load(is_urgent=is_urgent)

    def end(self, number: int, error: errors.KubediffusionError) -> None:
        """End one watch."""
        watch = self._by_number.get(number)
        if watch is not None:
            watch.end(error)

    def end_all(self, error: errors.KubediffusionError) -> None:
        """End every watch."""
        for watch in self._by_number.values():
            watch.end(error)

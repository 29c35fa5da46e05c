"""What the demo and its engine processes tell each other: one JSON object a line."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from kubediffusion.cli import news


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One generation that is wanted."""

    request_id: str
    prompt: str
    seed: int
    path: str
    """Where the picture goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an engine process is to do; the second one is told the same as the first."""

    engine_id: str
    registry: str
    state_dir: str
    steps: int
    items: tuple[Item, ...]

    def dumps(self) -> str:
        """Write the line."""
        return json.dumps(dataclasses.asdict(self))


def read_task(line: str) -> Task:
    """Read the line that `Task.dumps` wrote."""
    fields = json.loads(line)
    items = tuple(Item(**item) for item in fields.pop("items"))
    return Task(**fields, items=items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What an engine process says: news of a generation, and when it learnt it."""

    request_id: str
    kind: str
    """Of `news.Kind`."""
    moment: float
    """On the monotonic clock, which all processes of a machine share."""
    step: int = 0
    total: int = 0
    worker: str = ""
    seconds: float = 0.0
    """From the start of the generation to its end."""
    detail: str = ""
    event: str = ""
    """What the engine calls it; finer than `kind`."""
    exactness: str = ""
    """Of a generation that went on elsewhere."""

    def dumps(self) -> str:
        """Write the line."""
        return json.dumps(dataclasses.asdict(self))

    def news(self) -> news.News:
        """Answer it as a display takes it."""
        return news.News(
            request_id=self.request_id,
            kind=news.Kind(self.kind),
            step=self.step,
            total=self.total,
            detail=self.detail,
        )


def read_word(line: str) -> Word:
    """Read the line that `Word.dumps` wrote."""
    fields: dict[str, Any] = json.loads(line)  # Any: the fields have several types.
    return Word(**fields)

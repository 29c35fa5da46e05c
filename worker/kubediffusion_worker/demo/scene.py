"""What the demo model can draw: words, scenes, prompts and the held-out split.

A `Scene` is what a prompt says; a `Layout` adds what the prompt leaves open, the exact places
and sizes. Everything random takes a `random.Random`, so that equal seeds give equal scenes.
"""

import dataclasses
import enum
import hashlib
import random
import re
from collections.abc import Iterator

HELD_OUT_SHARE = 10
"""One picture in this many is kept out of training."""


class Colour(enum.StrEnum):
    """A colour of a shape or of the background."""

    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    BLACK = "black"
    WHITE = "white"


class Shape(enum.StrEnum):
    """A shape that stands upright."""

    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"


class Relation(enum.StrEnum):
    """Where the first thing of a prompt is, seen from the second."""

    LEFT_OF = "left of"
    RIGHT_OF = "right of"
    ABOVE = "above"
    BELOW = "below"


DEFAULT_BACKGROUND = Colour.WHITE
"""The background of a prompt that names none."""

RGB: dict[Colour, tuple[int, int, int]] = {
    Colour.RED: (214, 40, 40),
    Colour.ORANGE: (242, 122, 20),
    Colour.YELLOW: (252, 216, 50),
    Colour.GREEN: (42, 157, 84),
    Colour.BLUE: (38, 90, 214),
    Colour.PURPLE: (140, 40, 165),
    Colour.BLACK: (28, 28, 32),
    Colour.WHITE: (250, 250, 250),
}
"""The palette, in 0 to 255; the closest two colours are 89 apart."""

DIRECTION: dict[Relation, tuple[int, int]] = {
    Relation.LEFT_OF: (-1, 0),
    Relation.RIGHT_OF: (1, 0),
    Relation.ABOVE: (0, -1),
    Relation.BELOW: (0, 1),
}
"""The way from the second thing to the first, as (x, y) with y downwards."""

_GRAMMAR = re.compile(
    r"(?:an?|the) (?P<colour>{c}) (?P<shape>{s})"
    r"(?: (?P<relation>{r}) (?:an?|the) (?P<colour2>{c}) (?P<shape2>{s}))?"
    r"(?: on (?:an?|the) (?P<background>{c}) background)?".format(
        c="|".join(Colour), s="|".join(Shape), r="|".join(Relation)
    )
)


class PromptError(ValueError):
    """The prompt is not one of the sentences that describe a scene."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One coloured shape."""

    colour: Colour
    shape: Shape


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a prompt says."""

    things: tuple[Thing, ...]
    """One thing or two, in the order of the prompt."""
    relation: Relation | None = None
    """How two things stand to each other; None for one thing."""
    background: Colour | None = None
    """The background as named in the prompt; None if the prompt leaves it out."""

    def __post_init__(self) -> None:
        """Refuse a scene that no prompt can say."""
        wanted = 1 if self.relation is None else 2
        if len(self.things) != wanted:
            raise ValueError(
                f"wanted {wanted} thing(s) with relation {self.relation!r}, "
                f"found {len(self.things)}: add or drop a thing"
            )

    @property
    def visible_background(self) -> Colour:
        """The background that the picture shows."""
        return self.background or DEFAULT_BACKGROUND


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A thing at its place; lengths are shares of the picture's side."""

    thing: Thing
    x: float
    y: float
    radius: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A scene with every place and size settled."""

    background: Colour
    placed: tuple[Placed, ...]


def prompt_of(scene: Scene) -> str:
    """Say the scene in words."""
    words = f" {scene.relation} ".join(_noun_phrase(thing) for thing in scene.things)
    if scene.background is None:
        return words
    return f"{words} on {_article(scene.background)} {scene.background} background"


def parse(prompt: str) -> Scene:
    """Read a prompt back into its scene; case, spacing and punctuation do not matter.

    Raises:
        PromptError: The prompt is none of the sentences that `prompt_of` writes.
    """
    match = _GRAMMAR.fullmatch(" ".join(re.findall(r"[a-z]+", prompt.lower())))
    if match is None:
        raise PromptError(
            "wanted a prompt like 'a red circle left of a blue square on a white background', "
            "found other words: use only the words of the demo vocabulary"
        )
    return _scene_of(match.groupdict())


def random_scene(rng: random.Random) -> Scene:
    """Draw a scene: a third has one thing, the rest two; a quarter leaves out the background."""
    background = None if rng.random() < 0.25 else rng.choice(list(Colour))
    colours = [colour for colour in Colour if colour is not (background or DEFAULT_BACKGROUND)]
    relation = None if rng.random() < 0.33 else rng.choice(list(Relation))
    things = tuple(
        Thing(colour=rng.choice(colours), shape=rng.choice(list(Shape)))
        for _ in range(1 if relation is None else 2)
    )
    return Scene(things=things, relation=relation, background=background)


def training_scene(rng: random.Random) -> Scene:
    """Draw a scene whose picture is not held out."""
    return next(scene for scene in _endless(rng) if not is_held_out(scene))


def is_held_out(scene: Scene) -> bool:
    """Say whether training never sees this picture, however a prompt words it."""
    digest = hashlib.sha256(_picture_key(scene).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


def held_out_prompts(count: int, *, seed: int = 0) -> list[str]:
    """Return `count` different prompts that are not in training; equal seeds, equal prompts."""
    found: dict[str, None] = {}
    for scene in _endless(random.Random(seed)):
        if is_held_out(scene):
            found[prompt_of(scene)] = None
        if len(found) == count:
            break
    return list(found)


def place(scene: Scene, rng: random.Random) -> Layout:
    """Settle the places and sizes that the prompt leaves open."""
    if scene.relation is None:
        radius = rng.uniform(0.25, 0.3)
        centres = [(0.5 + rng.uniform(-0.05, 0.05), 0.5 + rng.uniform(-0.05, 0.05), radius)]
    else:
        along = DIRECTION[scene.relation]
        centres = [_beside(along, side, rng) for side in (1, -1)]
    placed = tuple(
        Placed(thing=thing, x=x, y=y, radius=radius)
        for thing, (x, y, radius) in zip(scene.things, centres, strict=True)
    )
    return Layout(background=scene.visible_background, placed=placed)


def _beside(along: tuple[int, int], side: int, rng: random.Random) -> tuple[float, float, float]:
    distance = side * (0.24 + rng.uniform(-0.015, 0.015))
    x = 0.5 + along[0] * distance + abs(along[1]) * rng.uniform(-0.03, 0.03)
    y = 0.5 + along[1] * distance + abs(along[0]) * rng.uniform(-0.03, 0.03)
    return x, y, rng.uniform(0.16, 0.18)


def _endless(rng: random.Random) -> Iterator[Scene]:
    while True:
        yield random_scene(rng)


def _scene_of(words: dict[str, str | None]) -> Scene:
    things = [
        Thing(colour=Colour(colour), shape=Shape(shape))
        for colour, shape in (
            (words["colour"], words["shape"]),
            (words["colour2"], words["shape2"]),
        )
        if colour is not None and shape is not None
    ]
    relation, background = words["relation"], words["background"]
    return Scene(
        things=tuple(things),
        relation=Relation(relation) if relation is not None else None,
        background=Colour(background) if background is not None else None,
    )


def _picture_key(scene: Scene) -> str:
    """Name the picture: equal for "a left of b" and "b right of a"."""
    nouns = [f"{thing.colour} {thing.shape}" for thing in scene.things]
    axis = ""
    if scene.relation is not None:
        step_x, step_y = DIRECTION[scene.relation]
        axis = "row" if step_x else "column"
        nouns = nouns if step_x + step_y < 0 else nouns[::-1]
    return f"{scene.visible_background}:{axis}:{'|'.join(nouns)}"


def _noun_phrase(thing: Thing) -> str:
    return f"{_article(thing.colour)} {thing.colour} {thing.shape}"


def _article(colour: Colour) -> str:
    return "an" if colour is Colour.ORANGE else "a"

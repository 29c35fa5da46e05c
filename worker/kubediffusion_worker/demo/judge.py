"""Check by rule whether a picture shows what its prompt says; nothing here is learnt.

The picture is cut into its background and the connected pieces on it. Each piece must have the
colour and the shape that the prompt names, and the pieces must stand as the prompt says.
"""

import dataclasses
import functools

import numpy
import numpy.typing

from kubediffusion_worker.demo import render, scene

Mask = numpy.typing.NDArray[numpy.bool_]

COLOUR_TOLERANCE = 44.0
"""How far a colour may be off, as a distance in RGB: half of the closest pair of the palette."""
BACKGROUND_SHARE = 0.95
"""The share of the frame of the picture that must have the colour of the background."""
SOLID_SHARE = 0.9
"""The share of a piece's inner pixels that must have its colour."""
SPECK_SHARE = 0.003
"""Pieces smaller than this share of the picture are specks; all of them together, too."""
LEAST_OVERLAP = {
    scene.Shape.CIRCLE: 0.85,
    scene.Shape.SQUARE: 0.85,
    scene.Shape.TRIANGLE: 0.75,
    scene.Shape.STAR: 0.75,
}
"""The least intersection over union of a piece with its shape.

A circle and a square overlap by 0.76, a triangle and a star overlap any other shape by 0.56 at
most. Their outlines are also long for their areas, so that the same slip costs them more.
"""
LARGEST_STRETCH = 1.2
"""How much wider or taller than drawn a shape may be."""
TEMPLATE_SIDE = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the check found."""

    prompt: str
    reasons: tuple[str, ...]
    """What is wrong with the picture, in words; empty if it is right."""

    @property
    def is_right(self) -> bool:
        """Whether the picture shows what the prompt says."""
        return not self.reasons


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A connected piece of the picture that is not background."""

    colour: scene.Colour | None
    """The palette colour, or None if it has none throughout."""
    shape: scene.Shape | None
    """The shape, or None if it fits none."""
    x: float
    y: float


def judge(image: render.Image, prompt: str) -> Verdict:
    """Check a picture against its prompt.

    Args:
        image: uint8, [height, width, 3], RGB.
        prompt: A sentence as `scene.prompt_of` writes it.

    Raises:
        scene.PromptError: The prompt says nothing that could be checked.
    """
    wanted = scene.parse(prompt)
    pixels = image.astype(numpy.float32)
    reasons = _background_faults(pixels, wanted.visible_background)
    if not reasons:
        pieces, reasons = _pieces(pixels, wanted.visible_background)
        reasons += _piece_faults(pieces, wanted)
    return Verdict(prompt=prompt, reasons=tuple(reasons))


def _background_faults(pixels: render.Floats, background: scene.Colour) -> list[str]:
    rows, columns = max(1, pixels.shape[0] // 40), max(1, pixels.shape[1] // 40)
    frame = numpy.ones(pixels.shape[:2], bool)
    frame[rows:-rows, columns:-columns] = False
    share = float((_distance(pixels[frame], background) < COLOUR_TOLERANCE).mean())
    if share >= BACKGROUND_SHARE:
        return []
    return [f"wanted a {background} background, found it on {share:.0%} of the frame"]


def _pieces(pixels: render.Floats, background: scene.Colour) -> tuple[list[Piece], list[str]]:
    """Cut out the pieces, and complain about specks that add up."""
    least = SPECK_SHARE * pixels.shape[0] * pixels.shape[1]
    masks = components(_distance(pixels, background) > COLOUR_TOLERANCE)
    specks = sum(int(mask.sum()) for mask in masks if mask.sum() < least)
    pieces = [_piece(pixels, mask, background) for mask in masks if mask.sum() >= least]
    return pieces, ["found specks on the background"] if specks >= least else []


def _piece_faults(pieces: list[Piece], wanted: scene.Scene) -> list[str]:
    if len(pieces) != len(wanted.things):
        return [f"wanted {len(wanted.things)} pieces, found {len(pieces)}"]
    if wanted.relation is None:
        return _thing_faults(pieces[0], wanted.things[0])
    step_x, step_y = scene.DIRECTION[wanted.relation]
    second, first = sorted(pieces, key=lambda piece: piece.x * step_x + piece.y * step_y)
    faults = _thing_faults(first, wanted.things[0]) + _thing_faults(second, wanted.things[1])
    apart = numpy.abs([first.x - second.x, first.y - second.y])
    if numpy.argmax(apart) != numpy.argmax(numpy.abs([step_x, step_y])):
        faults.append(f"wanted one thing {wanted.relation} the other, found another direction")
    return faults


def _thing_faults(piece: Piece, thing: scene.Thing) -> list[str]:
    faults = []
    if piece.colour is not thing.colour:
        faults.append(f"wanted {thing.colour}, found {piece.colour or 'no one colour'}")
    if piece.shape is not thing.shape:
        faults.append(f"wanted a {thing.shape}, found {piece.shape or 'no known shape'}")
    return faults


def _piece(pixels: render.Floats, mask: Mask, background: scene.Colour) -> Piece:
    colour = _colour_of(pixels[_eroded(_eroded(mask))])
    if colour is not None:
        mask = mask & (_distance(pixels, colour) < _distance(pixels, background))
    y, x = (float(where.mean()) for where in numpy.nonzero(mask))
    return Piece(colour=colour, shape=_shape_of(mask), x=x, y=y)


def _colour_of(inner: render.Floats) -> scene.Colour | None:
    if not len(inner):
        return None
    middle = numpy.median(inner, axis=0)
    colour = min(scene.Colour, key=lambda one: float(_distance(middle, one)))
    share = float((_distance(inner, colour) < COLOUR_TOLERANCE).mean())
    return colour if share >= SOLID_SHARE else None


def _shape_of(mask: Mask) -> scene.Shape | None:
    rows, columns = numpy.nonzero(mask.any(1))[0], numpy.nonzero(mask.any(0))[0]
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    overlaps = {shape: _overlap(box, shape) for shape in scene.Shape}
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best if overlaps[best] >= LEAST_OVERLAP[best] else None


def _overlap(box: Mask, shape: scene.Shape) -> float:
    """Return the intersection over union, or 0 for a box of the wrong proportions."""
    template = _template(shape)
    stretch = (box.shape[1] / box.shape[0]) / (template.shape[1] / template.shape[0])
    if not 1 / LARGEST_STRETCH < stretch < LARGEST_STRETCH:
        return 0.0
    rows = (numpy.arange(template.shape[0]) + 0.5) * box.shape[0] // template.shape[0]
    columns = (numpy.arange(template.shape[1]) + 0.5) * box.shape[1] // template.shape[1]
    scaled = box[numpy.ix_(rows.astype(int), columns.astype(int))]
    return float((scaled & template).sum() / (scaled | template).sum())


@functools.cache
def _template(shape: scene.Shape) -> Mask:
    """Draw the shape and cut it out along its box."""
    thing = scene.Thing(colour=scene.Colour.BLACK, shape=shape)
    placed = scene.Placed(thing=thing, x=0.5, y=0.5, radius=0.4)
    mask = render.coverage(placed, height=TEMPLATE_SIDE, width=TEMPLATE_SIDE) > 0.5
    return mask[mask.any(1)][:, mask.any(0)]


def components(mask: Mask) -> list[Mask]:
    """Split a mask into its connected pieces; pixels touch along their sides."""
    pieces = []
    left = mask.copy()
    while left.any():
        piece = numpy.zeros_like(mask)
        piece[numpy.unravel_index(numpy.argmax(left), left.shape)] = True
        piece = _flooded(piece, left)
        pieces.append(piece)
        left &= ~piece
    return pieces


def _flooded(seed: Mask, allowed: Mask) -> Mask:
    """Grow the seed within the allowed pixels until it fills its piece."""
    while True:
        grown = seed
        for _ in range(8):
            grown = _dilated(grown) & allowed
        if (grown == seed).all():
            return seed
        seed = grown


def _dilated(mask: Mask) -> Mask:
    padded = numpy.pad(mask, 1)
    return (
        padded[1:-1, 1:-1]
        | padded[:-2, 1:-1]
        | padded[2:, 1:-1]
        | padded[1:-1, :-2]
        | padded[1:-1, 2:]
    )


def _eroded(mask: Mask) -> Mask:
    return ~_dilated(~mask)


def _distance(pixels: render.Floats, colour: scene.Colour) -> render.Floats:
    """Return the distance in RGB of each pixel: float32, one axis less."""
    apart = pixels - numpy.asarray(scene.RGB[colour], numpy.float32)
    distance: render.Floats = numpy.sqrt((apart * apart).sum(-1))
    return distance

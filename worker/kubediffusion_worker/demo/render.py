"""Draw a layout: flat colours with anti-aliased edges."""

import math
from collections.abc import Sequence

import numpy
import numpy.typing

from kubediffusion_worker.demo import scene

Floats = numpy.typing.NDArray[numpy.float32]
Image = numpy.typing.NDArray[numpy.uint8]


def _ring(count: int, radii: Sequence[float]) -> list[tuple[float, float]]:
    """Place `count` corners around the origin, the first at the top."""
    return [
        (
            radii[index % len(radii)] * math.sin(2 * math.pi * index / count),
            -radii[index % len(radii)] * math.cos(2 * math.pi * index / count),
        )
        for index in range(count)
    ]


POLYGON: dict[scene.Shape, list[tuple[float, float]]] = {
    scene.Shape.SQUARE: [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    scene.Shape.TRIANGLE: [(x, y + 0.2) for x, y in _ring(3, [1.15])],
    scene.Shape.STAR: [(x, y + 0.08) for x, y in _ring(10, [1.12, 0.5])],
}
"""The corners of each shape of radius 1, as (x, y) with y downwards; a circle has none."""


def render(layout: scene.Layout, *, height: int, width: int) -> Image:
    """Draw the layout.

    Returns:
        uint8, [height, width, 3], RGB.
    """
    canvas = numpy.empty((height, width, 3), numpy.float32)
    canvas[:] = scene.RGB[layout.background]
    for placed in layout.placed:
        cover = coverage(placed, height=height, width=width)[..., None]
        colour = numpy.asarray(scene.RGB[placed.thing.colour], numpy.float32)
        canvas += cover * (colour - canvas)
    return numpy.rint(canvas).astype(numpy.uint8)


def coverage(placed: scene.Placed, *, height: int, width: int) -> Floats:
    """Return how much of each pixel the thing covers: float32, [height, width], 0 to 1."""
    side = min(height, width)
    radius = placed.radius * side
    x = (numpy.arange(width, dtype=numpy.float32) + 0.5 - placed.x * width) / radius
    y = (numpy.arange(height, dtype=numpy.float32) + 0.5 - placed.y * height) / radius
    distance = _distance(placed.thing.shape, x[None, :], y[:, None])
    covered: Floats = numpy.clip(0.5 - distance * radius, 0.0, 1.0)
    return covered


def _distance(shape: scene.Shape, x: Floats, y: Floats) -> Floats:
    """Return the signed distance to the outline of the shape of radius 1; inside is negative."""
    if shape is scene.Shape.CIRCLE:
        circle: Floats = numpy.sqrt(x * x + y * y) - numpy.float32(1.0)
        return circle
    return _polygon_distance(POLYGON[shape], x, y)


def _polygon_distance(corners: list[tuple[float, float]], x: Floats, y: Floats) -> Floats:
    """Measure to a polygon, after https://iquilezles.org/articles/distfunctions2d/."""
    shape = numpy.broadcast_shapes(x.shape, y.shape)
    nearest = numpy.full(shape, numpy.inf, numpy.float32)
    inside = numpy.zeros(shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        along = numpy.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = numpy.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    distance: Floats = numpy.where(inside, -1.0, 1.0).astype(numpy.float32) * numpy.sqrt(nearest)
    return distance

"""Lay pictures with captions out on one contact sheet."""

import itertools
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PADDING = 10
"""Pixels around a picture."""
FONT_SIZE = 13
CAPTION_LINES = 3
"""Lines below a picture; longer captions are cut short."""
BACKGROUND = "white"
INK = "#333333"


def contact_sheet(
    images: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 4
) -> Image.Image:
    """Lay out pictures in rows, each over its caption.

    Args:
        images: At least one picture; all as large as the first.
        captions: One caption for each picture.
        columns: Pictures in a row, at least 1.

    Returns:
        The sheet in RGB.

    Raises:
        ValueError: There is no picture, or captions and pictures differ in number.
    """
    if not images or len(images) != len(captions):
        raise ValueError(
            f"wanted as many captions as pictures and at least one, found {len(images)} "
            f"pictures and {len(captions)} captions: add what is missing"
        )
    width, height = images[0].size
    cell = (width + PADDING, height + PADDING + CAPTION_LINES * (FONT_SIZE + 4))
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = (columns * cell[0] + PADDING, rows * cell[1] + PADDING)
    sheet = Image.new("RGB", size, BACKGROUND)
    corners = itertools.product(range(rows), range(columns))
    for image, caption, (row, column) in zip(images, captions, corners, strict=False):
        corner = (PADDING + column * cell[0], PADDING + row * cell[1])
        sheet.paste(image, corner)
        _write(sheet, caption, (corner[0], corner[1] + height + 2), width)
    return sheet


def _write(sheet: Image.Image, caption: str, corner: tuple[int, int], width: int) -> None:
    font = ImageFont.load_default(size=FONT_SIZE)
    letters = max(8, int(width / (0.52 * FONT_SIZE)))
    lines = textwrap.wrap(caption, letters, max_lines=CAPTION_LINES, placeholder=" …")
    ImageDraw.Draw(sheet).multiline_text(corner, "\n".join(lines), fill=INK, font=font, spacing=3)

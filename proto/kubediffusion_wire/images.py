"""Pictures as raw pixels or as encoded files, exchanged with Pillow.

Files are opened with an allow-list of formats and never decoded before their header has shown
that they are small enough.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

if TYPE_CHECKING:
    import PIL.Image

CHANNELS: Mapping[str, int] = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""Bytes of one pixel by Pillow's name of the mode."""

MAX_PIXELS = 50_000_000
"""Pixels of a picture, at most, unless the caller says otherwise: 150 MB as RGB."""

MAX_RAW_BYTES = 4_194_304
"""A picture with more bytes is sent as a PNG: so 1024 x 1024 RGBA still travels raw, and two
such pictures fit into one message."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
_MODE_CONVERSIONS: Mapping[str, str] = {
    "1": "L",
    "CMYK": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
    "La": "LA",
    "PA": "RGBA",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "YCbCr": "RGB",
}
# What Pillow's readers raise on files that are broken, lie or are cut off.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    EOFError,
    OverflowError,
    TypeError,
    RuntimeError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class ImageData:
    """A picture: raw pixels if it has a mode, else a PNG, JPEG or WebP file.

    Raises:
        errors.InvalidRequestError: Raw pixels whose mode, size and bytes do not agree.
    """

    data: bytes
    """Rows from the top, 8 bits a channel, no padding; or the file."""
    mode: str = ""
    """"L", "LA", "RGB", "RGBA", or empty for a file."""
    width: int = 0
    """In pixels; 0 for a file."""
    height: int = 0
    """In pixels; 0 for a file."""

    def __post_init__(self) -> None:
        if self.mode or self.width or self.height:
            check_raw(self.mode, self.width, self.height, len(self.data))

    @property
    def is_encoded(self) -> bool:
        """True for a file, false for raw pixels."""
        return not self.mode

    def to_pil(self, *, max_pixels: int = MAX_PIXELS, field: str = "image") -> "PIL.Image.Image":
        """Returns a decoded Pillow image, in a mode of Pillow's choice for files.

        Raises:
            errors.InvalidRequestError: Too many pixels, a format other than PNG, JPEG and
                WebP, or a broken file; nothing has been decoded in the first two cases.
        """
        if self.is_encoded:
            return _open(self.data, max_pixels=max_pixels, field=field)
        _check_pixels(self.width, self.height, max_pixels=max_pixels, field=field)
        import PIL.Image

        return PIL.Image.frombytes(self.mode, (self.width, self.height), self.data)


def check_raw(mode: str, width: int, height: int, size: int, *, field: str = "image") -> None:
    """Refuses raw pixels whose mode, size and number of bytes do not agree.

    Raises:
        errors.InvalidRequestError: They do not.
    """
    channels = CHANNELS.get(mode)
    if channels is None:
        raise errors.InvalidRequestError.at(
            field, f"must have a mode among {', '.join(CHANNELS)}; found {mode!r:.40}"
        )
    if width < 1 or height < 1:
        raise errors.InvalidRequestError.at(
            field, f"must have a width and a height of 1 or more; found {width} x {height}"
        )
    if width * height * channels != size:
        wanted = f"of mode {mode} and {width} x {height} pixels"
        raise errors.InvalidRequestError.at(
            field, f"{wanted} must have {width * height * channels} bytes; found {size}"
        )


def from_pil(image: "PIL.Image.Image", *, field: str = "image") -> ImageData:
    """Copies a Pillow image without loss; a large one is packed as PNG.

    Palettes and colour spaces become RGB or RGBA.

    Raises:
        errors.InvalidRequestError: Its mode has more than 8 bits a channel.
    """
    mode = _wire_mode(image, field=field)
    if image.mode != mode:
        image = image.convert(mode)
    if image.width * image.height * CHANNELS[mode] > MAX_RAW_BYTES:
        file = io.BytesIO()
        # Level 1: three times as fast as the default, for files that are 15 % larger.
        image.save(file, "PNG", compress_level=1)
        return ImageData(file.getvalue())
    return ImageData(image.tobytes(), mode, image.width, image.height)


def to_message(image: ImageData) -> worker_pb2.Image:
    """Returns the form in which a picture travels."""
    if image.is_encoded:
        return worker_pb2.Image(encoded=image.data)
    raw = worker_pb2.RawImage(
        mode=image.mode, width=image.width, height=image.height, data=image.data
    )
    return worker_pb2.Image(raw=raw)


def from_message(message: worker_pb2.Image, *, field: str = "image") -> ImageData:
    """Returns the picture that a message holds; a file is not opened.

    Raises:
        errors.InvalidRequestError: It holds none, or raw pixels that do not fit their size.
    """
    content = message.WhichOneof("content")
    if content is None:
        raise errors.InvalidRequestError.at(
            field, "must hold raw pixels or an encoded file; found neither"
        )
    if content == "encoded":
        return ImageData(message.encoded)
    raw = message.raw
    data = raw.data
    check_raw(raw.mode, raw.width, raw.height, len(data), field=field)
    return ImageData(data, raw.mode, raw.width, raw.height)


def check_message(message: worker_pb2.Image, *, field: str = "image") -> None:
    """Refuses a picture that cannot be one, without opening it.

    Raises:
        errors.InvalidRequestError: No content, raw pixels that do not fit their size, or a
            file that does not start like PNG, JPEG or WebP.
    """
    image = from_message(message, field=field)
    if not image.is_encoded:
        _check_pixels(image.width, image.height, max_pixels=MAX_PIXELS, field=field)
    elif not image.data.startswith(_SIGNATURES):
        raise errors.InvalidRequestError.at(field, _not_an_image(image.data))


def _open(data: bytes, *, max_pixels: int, field: str) -> "PIL.Image.Image":
    import PIL.Image

    if data[:4] == b"RIFF":
        # Pillow's WebP reader allocates for the whole canvas as soon as it opens a file.
        _check_pixels(*_webp_size(data, field=field), max_pixels=max_pixels, field=field)
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_pixels(*image.size, max_pixels=max_pixels, field=field)
        image.load()
    except errors.InvalidRequestError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise errors.InvalidRequestError.at(
            field, f"must have at most {max_pixels} pixels; found more"
        ) from error
    except PIL.UnidentifiedImageError as error:
        raise errors.InvalidRequestError.at(field, _not_an_image(data)) from error
    except _DECODE_ERRORS as error:
        description = f"must be a whole {', '.join(_FORMATS)} file; found a broken one"
        raise errors.InvalidRequestError.at(
            field, f"{description} of {len(data)} bytes"
        ) from error
    return image


def _not_an_image(data: bytes) -> str:
    return f"must be a file in one of the formats {', '.join(_FORMATS)}; found {len(data)} bytes"


def _webp_size(data: bytes, *, field: str) -> tuple[int, int]:
    """Reads the canvas size, see RFC 9649 sections 2.5 to 2.7."""
    kind, body = data[12:16], data[20:30]
    if data[8:12] == b"WEBP" and len(body) == 10:
        if kind == b"VP8X":
            width, height = body[4:7], body[7:10]
            return 1 + int.from_bytes(width, "little"), 1 + int.from_bytes(height, "little")
        if kind == b"VP8 ":
            width, height = struct.unpack("<HH", body[6:10])
            return width & 0x3FFF, height & 0x3FFF
        if kind == b"VP8L":
            bits = int.from_bytes(body[1:5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise errors.InvalidRequestError.at(field, _not_an_image(data))


def _check_pixels(width: int, height: int, *, max_pixels: int, field: str) -> None:
    if width * height > max_pixels:
        found = f"{width} x {height} = {width * height}"
        raise errors.InvalidRequestError.at(
            field, f"must have at most {max_pixels} pixels; found {found}"
        )


def _wire_mode(image: "PIL.Image.Image", *, field: str) -> str:
    if image.mode in CHANNELS:
        return image.mode
    if image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    mode = _MODE_CONVERSIONS.get(image.mode)
    if mode is None:
        wanted = f"must have 8 bits a channel, best a mode among {', '.join(CHANNELS)}"
        raise errors.InvalidRequestError.at(
            field, f"{wanted}; found {image.mode!r}; convert it first"
        )
    return mode

import io
import struct
import zlib
from typing import Any

import hypothesis
import PIL.Image
import pytest
from hypothesis import strategies

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors, images


def picture(mode: str = "RGB", width: int = 20, height: int = 10) -> PIL.Image.Image:
    image = PIL.Image.new(mode, (width, height))
    for x in range(width):
        image.putpixel((x, x % height), 255 if mode == "L" else (x, 2 * x, 3, 4)[: len(mode)])
    return image


def encoded(file_format: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, file_format, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims any size; its pixels really are there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(1 + width // 8, 2**16) * min(height, 1000)), 9)
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + end


def webp_of_size(width: int, height: int) -> bytes:
    body = b"\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def over_the_wire(image: images.ImageData) -> images.ImageData:
    data = images.to_message(image).SerializeToString()
    return images.from_message(worker_pb2.Image.FromString(data))


@pytest.mark.parametrize("mode", sorted(images.CHANNELS))
def test_raw_pixels_come_back_exactly(mode: str) -> None:
    result = over_the_wire(images.from_pil(picture(mode)))
    assert not result.is_encoded
    assert result.to_pil().mode == mode
    assert result.to_pil().tobytes() == picture(mode).tobytes()


@pytest.mark.parametrize(
    ("mode", "wire_mode"),
    [
        ("1", "L"),
        ("P", "RGB"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("RGBa", "RGBA"),
        ("PA", "RGBA"),
    ],
)
def test_other_modes_are_converted(mode: str, wire_mode: str) -> None:
    assert images.from_pil(PIL.Image.new(mode, (4, 4))).mode == wire_mode


def test_a_transparent_palette_keeps_its_transparency() -> None:
    image = PIL.Image.new("P", (4, 4))
    image.info["transparency"] = 0
    assert images.from_pil(image).mode == "RGBA"


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_modes_of_more_than_8_bits_are_refused(mode: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"8 bits a channel.*convert it first"):
        images.from_pil(PIL.Image.new(mode, (4, 4)))


def test_a_large_picture_travels_as_png_without_loss() -> None:
    image = PIL.Image.linear_gradient("L").resize((2100, 2100))
    result = over_the_wire(images.from_pil(image))
    assert result.is_encoded
    assert len(result.data) < images.MAX_RAW_BYTES
    assert result.to_pil().tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {"lossless": False}), ("JPEG", {})],
)
def test_files_of_the_allowed_formats_are_opened(
    file_format: str, options: dict[str, Any]
) -> None:
    data = encoded(file_format, **options)
    result = over_the_wire(images.ImageData(data)).to_pil()
    assert result.size == (20, 10)
    assert result.tobytes() == PIL.Image.open(io.BytesIO(data)).tobytes()


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PDF", "EPS"])
def test_files_of_other_formats_are_refused(file_format: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="formats PNG, JPEG, WEBP"):
        images.ImageData(encoded(file_format)).to_pil()


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"RIFF", b"RIFF\0\0\0\0WEBPVP8X"]
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"^mask_image must be"):
        images.ImageData(data).to_pil(field="mask_image")


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    bomb = png_of_size(width, height)
    assert len(bomb) < 100_000
    with pytest.raises(errors.InvalidRequestError, match=r"must have at most \d+ pixels"):
        images.ImageData(bomb).to_pil()


def test_the_pixel_cap_holds_below_pillows_own() -> None:
    image = images.ImageData(png_of_size(1001, 1000))
    with pytest.raises(errors.InvalidRequestError) as caught:
        image.to_pil(max_pixels=1_000_000)
    assert caught.value.message == (
        "image must have at most 1000000 pixels; found 1001 x 1000 = 1001000"
    )


def test_a_webp_bomb_is_refused_before_pillow_sees_it() -> None:
    with pytest.raises(errors.InvalidRequestError, match="found 16777216 x 16777216"):
        images.ImageData(webp_of_size(2**24, 2**24)).to_pil()


@pytest.mark.parametrize(
    "data",
    [
        encoded("WEBP", lossless=True),
        encoded("WEBP", lossless=False),
        encoded("WEBP", "RGBA", lossless=False),
    ],
)
def test_the_size_of_every_kind_of_webp_is_read(data: bytes) -> None:
    with pytest.raises(errors.InvalidRequestError, match="found 20 x 10 = 200"):
        images.ImageData(data).to_pil(max_pixels=199)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_file_is_refused(file_format: str) -> None:
    whole = encoded(file_format)
    for share in (0.1, 0.3, 0.5, 0.8):
        with pytest.raises(errors.InvalidRequestError):
            images.ImageData(whole[: int(share * len(whole))]).to_pil()


@hypothesis.given(
    strategies.sampled_from([encoded("PNG"), encoded("JPEG"), encoded("WEBP")]),
    strategies.data(),
)
def test_a_file_with_flipped_bits_gives_an_image_or_a_typed_error(
    whole: bytes, data: strategies.DataObject
) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(strategies.integers(1, 5))):
        place = data.draw(strategies.integers(0, 8 * len(damaged) - 1))
        damaged[place // 8] ^= 1 << place % 8
    try:
        images.ImageData(bytes(damaged)).to_pil(max_pixels=100_000)
    except errors.InvalidRequestError:
        return


@hypothesis.given(
    strategies.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 "]),
    strategies.binary(max_size=200),
)
def test_a_signature_with_garbage_gives_a_typed_error(signature: bytes, garbage: bytes) -> None:
    with pytest.raises(errors.InvalidRequestError):
        images.ImageData(signature + garbage).to_pil(max_pixels=100_000)


@pytest.mark.parametrize(
    ("mode", "width", "height", "size"),
    [
        ("RGB", 2, 2, 11),
        ("RGB", 2, 2, 13),
        ("L", 0, 0, 0),
        ("L", -2, -2, 4),
        ("L", 2**31 - 1, 2**31 - 1, 4),
        ("CMYK", 1, 1, 4),
        ("P", 1, 1, 1),
        ("", 1, 1, 1),
    ],
)
def test_raw_pixels_that_do_not_fit_their_size_are_refused(
    mode: str, width: int, height: int, size: int
) -> None:
    with pytest.raises(errors.InvalidRequestError):
        images.ImageData(bytes(size), mode, width, height)


def test_a_raw_message_that_lies_is_refused() -> None:
    raw = worker_pb2.RawImage(mode="RGB", width=1000, height=1000, data=b"abc")
    with pytest.raises(errors.InvalidRequestError) as caught:
        images.from_message(worker_pb2.Image(raw=raw), field="extra_args.image")
    assert caught.value.message == (
        "extra_args.image of mode RGB and 1000 x 1000 pixels must have 3000000 bytes; found 3"
    )


def test_a_message_without_content_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError, match="found neither"):
        images.from_message(worker_pb2.Image())


def test_the_pixel_cap_holds_for_raw_pixels() -> None:
    with pytest.raises(errors.InvalidRequestError, match="at most 199 pixels"):
        images.from_pil(picture()).to_pil(max_pixels=199)


def test_checking_a_message_opens_nothing() -> None:
    images.check_message(worker_pb2.Image(encoded=b"\xff\xd8\xff and no more"))
    with pytest.raises(errors.InvalidRequestError, match="formats PNG, JPEG, WEBP"):
        images.check_message(worker_pb2.Image(encoded=b"GIF89a"))

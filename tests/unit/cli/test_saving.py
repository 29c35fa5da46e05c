import io

import numpy
import PIL.Image
import pytest

from kubediffusion.cli import saving
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_wire import errors

PIXELS = numpy.arange(4 * 5 * 3, dtype=numpy.uint8).reshape(4, 5, 3)


def raw(array, kind=worker_pb2.OUTPUT_KIND_IMAGE, dtype=worker_pb2.DATA_TYPE_UINT8):
    output = worker_pb2.Output(
        kind=kind, encoding=worker_pb2.ENCODING_RAW, dtype=dtype, shape=array.shape
    )
    return output, memoryview(array.tobytes())


def encoded(format_name):
    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(buffer, format_name)
    encoding = f"ENCODING_{format_name}"
    output = worker_pb2.Output(kind=worker_pb2.OUTPUT_KIND_IMAGE, encoding=encoding)
    return output, memoryview(buffer.getvalue())


def pixels(path):
    with PIL.Image.open(path) as picture:
        return numpy.asarray(picture)


def fact(path, name):
    with PIL.Image.open(path) as picture:
        return getattr(picture, name)


def test_raw_pixels_are_saved_without_loss(tmp_path):
    (path,) = saving.save_output(*raw(PIXELS), tmp_path / "a.png", "png")
    assert numpy.array_equal(pixels(path), PIXELS)


def test_floats_from_0_to_1_become_8_bits(tmp_path):
    array = numpy.array([[[0.0, 0.5, 1.0]]], dtype=numpy.float32)
    output = raw(array, dtype=worker_pb2.DATA_TYPE_FLOAT32)
    (path,) = saving.save_output(*output, tmp_path / "a.png", "png")
    assert pixels(path).tolist() == [[[0, 128, 255]]]


def test_grey_images_have_one_channel(tmp_path):
    (path,) = saving.save_output(*raw(PIXELS[..., :1]), tmp_path / "a.png", "png")
    assert pixels(path).shape == (4, 5)


def test_an_encoded_file_is_saved_byte_for_byte(tmp_path):
    output, data = encoded("JPEG")
    (path,) = saving.save_output(output, data, tmp_path / "a.jpg", "jpeg")
    assert path.read_bytes() == data


def test_an_encoded_file_can_change_its_format(tmp_path):
    (path,) = saving.save_output(*encoded("PNG"), tmp_path / "a.webp", "webp")
    assert fact(path, "format") == "WEBP"


def test_transparency_is_dropped_where_jpeg_cannot_hold_it(tmp_path):
    array = numpy.zeros((2, 2, 4), dtype=numpy.uint8)
    (path,) = saving.save_output(*raw(array), tmp_path / "a.jpg", "jpeg")
    assert fact(path, "mode") == "RGB"


def test_frames_are_numbered_or_make_an_animation(tmp_path):
    video = raw(numpy.stack([PIXELS] * 3 + [PIXELS[::-1]]), kind=worker_pb2.OUTPUT_KIND_VIDEO)
    frames = saving.save_output(*video, tmp_path / "a.png", "png")
    assert [path.name for path in frames] == ["a-0.png", "a-1.png", "a-2.png", "a-3.png"]
    (animation,) = saving.save_output(*video, tmp_path / "a.webp", "webp")
    assert fact(animation, "n_frames") > 1


def test_raw_frames_cannot_become_mp4_here(tmp_path):
    video = raw(numpy.stack([PIXELS] * 2), kind=worker_pb2.OUTPUT_KIND_VIDEO)
    with pytest.raises(errors.InvalidRequestError, match="only workers encode mp4"):
        saving.save_output(*video, tmp_path / "a.mp4", "mp4")


def test_what_is_no_picture_is_saved_as_an_array(tmp_path):
    latents = numpy.ones((1, 4, 2, 2), dtype=numpy.float32)
    output = raw(latents, kind=worker_pb2.OUTPUT_KIND_LATENTS, dtype=worker_pb2.DATA_TYPE_FLOAT32)
    (path,) = saving.save_output(*output, tmp_path / "a.png", "png")
    assert path.name == "a.npy"
    assert numpy.array_equal(numpy.load(path), latents)

import pathlib

import click
import pytest

from kubediffusion.cli import files


@pytest.mark.parametrize(
    ("name", "wanted", "format_name"),
    [
        ("out.png", None, "png"),
        ("out.JPG", None, "jpeg"),
        ("out.webp", "webp", "webp"),
        ("out", None, "png"),
        ("out", "mp4", "mp4"),
    ],
)
def test_the_format_follows_from_the_suffix_or_the_option(tmp_path, name, wanted, format_name):
    assert files.check_target(tmp_path / name, wanted) == format_name


@pytest.mark.parametrize(
    ("name", "wanted", "complaint"),
    [
        ("out.gif", None, "no known suffix"),
        ("out.png", "jpeg", "does not fit"),
        ("missing/out.png", None, "does not exist"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_any_work(tmp_path, name, wanted, complaint):
    with pytest.raises(click.BadParameter, match=complaint):
        files.check_target(tmp_path / name, wanted)


def test_one_output_keeps_the_name_as_it_is():
    output = pathlib.Path("some/where/out.jpeg")
    assert files.names(output, 1, "jpeg") == (output,)


def test_several_outputs_are_numbered_from_zero():
    found = files.names(pathlib.Path("out.png"), 2, "png")
    assert [path.name for path in found] == ["out-0.png", "out-1.png"]


def test_numbers_have_as_many_digits_as_the_last_one_needs():
    found = files.numbered(pathlib.Path("out"), 11, ".png")
    assert (found[0].name, found[-1].name) == ("out-00.png", "out-10.png")


def test_a_folder_gets_files_with_a_name_of_their_own(tmp_path):
    assert files.names(tmp_path, 1, "webp") == (tmp_path / "image.webp",)


def test_a_name_without_suffix_gets_that_of_the_format():
    assert files.names(pathlib.Path("out"), 1, "jpeg") == (pathlib.Path("out.jpg"),)


def test_a_dot_within_the_name_is_no_suffix_of_ours(tmp_path):
    with pytest.raises(click.BadParameter, match=r"known are \.jpeg, \.jpg"):
        files.check_target(tmp_path / "v1.5", None)


def test_many_files_are_listed_by_the_first_and_the_last():
    paths = [pathlib.Path(f"{i}.png") for i in range(9)]
    assert files.listing(paths) == "0.png … 8.png (9 files)"
    assert files.listing(paths[:2]) == "0.png, 1.png"

"""The page on the format agrees with the file and the code."""

import pathlib
import re

import pytest

from kubediffusion_worker import checkpoint, layouts, nodes, tensor_file, trees

ROOT = pathlib.Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "checkpoint-format.md").read_text(encoding="utf-8")
GOLDEN = (ROOT / "tests" / "data" / "checkpoint-format-1.safetensors").read_bytes()

DUMPED = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} {1,2}){15}[0-9a-f]{2})  \|", PAGE, re.M)


def test_page_shows_the_beginning_and_a_tensor() -> None:
    assert [int(offset, 16) for offset, _ in DUMPED] == [*range(0, 0x70, 16), 0xC60, 0xC70]


@pytest.mark.parametrize(("offset", "digits"), DUMPED)
def test_dumped_bytes_are_those_of_the_file(offset: str, digits: str) -> None:
    begin = int(offset, 16)
    assert bytes.fromhex(digits) == GOLDEN[begin : begin + 16]


def test_quoted_json_is_in_the_file() -> None:
    quoted = re.findall(r"```json\n(.*)\n```", PAGE)
    header = GOLDEN.replace(b"\\", b"")
    assert len(quoted) == 2
    assert all(each.encode() in header for each in quoted)


def test_numbers_in_the_text_are_those_of_the_file() -> None:
    length = int.from_bytes(GOLDEN[:8], "little")
    assert f"0x{length:x} = {length} bytes" in PAGE
    assert f"8 + {length} = {8 + length} = 0x{8 + length:x}" in PAGE
    latents = checkpoint.decode(GOLDEN).tensors["value.latents"]
    assert sorted(latents.flatten().tolist()) == [n / 8 for n in range(8)]


def test_page_explains_every_node_and_every_string() -> None:
    assert set(re.findall(r"`(\$\w+)`", PAGE)) == nodes.KEYS
    strings = set(re.findall(r"^\| `(\w+)` \| ", PAGE, re.M))
    header = tensor_file.read_header(memoryview(GOLDEN), checkpoint.Limits())
    assert strings == {"sha256", *header.metadata}


def test_page_says_the_limits() -> None:
    limits = checkpoint.Limits()
    found = [
        int(number.replace(" ", ""))
        for number in re.findall(r"^\| [^|`]+ \| ([\d ]+?)(?: bytes)? \|$", PAGE, re.M)
    ]
    assert found == [
        limits.max_bytes,
        limits.max_header_bytes,
        limits.max_tensors,
        layouts.MAX_DIMENSIONS,
        limits.max_depth,
        limits.max_values,
        trees.MAX_DEPTH,
        trees.MAX_STAND_IN_BYTES,
    ]

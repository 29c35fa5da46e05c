"""Checkpoints that were damaged or made to do harm give one kind of error, and nothing else.

Whatever is read is then also used, as a run would. No module is imported, no code is compiled,
no file or process opened, and no memory is kept.
"""

import contextlib
import functools
import gc
import hashlib
import json
import os
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

import checkpoint_specimens as specimens
from kubediffusion_wire import errors
from kubediffusion_worker import checkpoint, nodes, trees

CASES = hypothesis.settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
EACH = 25
"""Cases of one example, as a case takes less time than to think of an example. Four tests with
these make 10 000 cases."""

fuzzed = hypothesis.given(st.integers(0, 2**32))

VALID = specimens.every_kind()
DIGEST = slice(34, 98)

FORBIDDEN = ("import", "compile", "exec", "open", "os.", "subprocess.", "socket.", "ctypes.")
_events: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if _events is not None and event.startswith(FORBIDDEN):
        _events.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_note)


@contextlib.contextmanager
def nothing_else_happens() -> Iterator[None]:
    """Fail if Python is asked to import, compile, open or start anything."""
    global _events
    _events = seen = []
    try:
        yield
    finally:
        _events = None
    assert seen == []


def sealed(data: bytes) -> bytes:
    """Give a changed file the digest of its bytes, as someone with bad intentions would."""
    digest = hashlib.sha256(data[: DIGEST.start] + data[DIGEST.stop :]).hexdigest().encode()
    return data[: DIGEST.start] + digest + data[DIGEST.stop :]


def built(header: object, section: bytes) -> bytes:
    """Make a sealed file of a header and bytes of tensors."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return sealed(len(text).to_bytes(8, "little") + text + section)


def parts() -> tuple[dict[str, Any], bytes]:
    """Take a valid file apart."""
    length = int.from_bytes(VALID[:8], "little") + 8
    return json.loads(VALID[8:length]), VALID[length:]


def with_body(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Make a sealed file whose body is changed."""
    header, section = parts()
    body = json.loads(header["__metadata__"]["body"])
    change(body)
    header["__metadata__"]["body"] = json.dumps(body)
    return built(header, section)


def use(data: bytes) -> bool:
    """Read a file and use what it holds; returns whether that was possible."""
    with nothing_else_happens():
        try:
            checkpoint.facts(data)
            read = checkpoint.decode(data)
            for node in (read.body.get("value"), read.body.get("order")):
                trees.rebuild(node, read.tensors, "cpu")
            for node in read.body.get("skeletons") or ():
                trees.stand_in(node, "cpu")
        except errors.InvalidCheckpointError:
            return False
        return True


def test_the_valid_file_can_be_used_as_far_as_it_should() -> None:
    read = checkpoint.decode(VALID)
    with nothing_else_happens():
        trees.rebuild(read.body["value"], read.tensors, "cpu")
        trees.stand_in(read.body["skeletons"][1], "cpu")


def damaged(draw: random.Random) -> bytes:
    index = draw.randrange(len(VALID))
    noise = draw.randbytes(draw.randint(1, 9))
    damage = draw.choice(["cut", "flip", "insert", "remove", "grow"])
    if damage == "cut":
        return VALID[:index]
    if damage == "flip":
        return (
            VALID[:index] + bytes([VALID[index] ^ (1 << draw.randrange(8))]) + VALID[index + 1 :]
        )
    if damage == "insert":
        return VALID[:index] + noise + VALID[index:]
    if damage == "remove":
        return VALID[:index] + VALID[index + draw.randint(1, 100) :]
    return VALID + noise


@CASES
@fuzzed
def test_damaged_files_are_refused(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(EACH):
        data = damaged(draw)
        assert data == VALID or not use(data)


def made_up(draw: random.Random) -> bytes:
    noise = draw.randbytes(draw.randint(0, 300))
    kind = draw.choice(["noise", "length", "text", "sealed"])
    if kind == "noise":
        return noise
    if kind == "length":
        return draw.getrandbits(draw.choice([8, 32, 64])).to_bytes(8, "little") + noise
    if kind == "text":
        text = "".join(draw.choices('{}[]":,0123456789.-eE$tuT\\ ', k=len(noise))).encode()
        header = VALID[8:98] + b'"' + text
        return sealed(len(header).to_bytes(8, "little") + header)
    index = draw.randrange(len(VALID))
    return sealed(VALID[:index] + noise[:4] + VALID[index + len(noise[:4]) :])


@CASES
@fuzzed
def test_bytes_that_are_made_up_or_sealed_again_do_no_harm(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(EACH):
        use(made_up(draw))


LEAVES = [
    *[None, True, False, 0, 1, 2, -1, 2**31, 2**40, 2**63, 2**64, 10**30, 0.5, 1e308],
    *["", "F32", "BOOL", "value.latents", "os:system", "device", "cpu", "0x1", "\ud800", "00"],
]
KEYS = ["dtype", "shape", "data_offsets", "fields", "on", "strides", "as", "$x", *nodes.KEYS]


def anything(draw: random.Random, depth: int = 0) -> object:
    kind = draw.random()
    if depth > 3 or kind < 0.5:
        return draw.choice(LEAVES)
    inner = [anything(draw, depth + 1) for _ in range(draw.randrange(4))]
    return inner if kind < 0.75 else {draw.choice(KEYS): each for each in inner}


def lying(draw: random.Random) -> bytes:
    header, section = parts()
    field = header[draw.choice([name for name in header if name != "__metadata__"])]
    key = draw.choice(["dtype", "shape", "data_offsets"])
    sizes = [draw.randint(-1, draw.choice([4, 2**20, 2**65])) for _ in range(draw.randrange(5))]
    dtype = draw.choice(["F64", "F32", "BF16", "U8", "BOOL", "F4", "C64", "", None])
    field[key] = draw.choice([anything(draw), dtype if key == "dtype" else sizes])
    return built(header, section)


@CASES
@fuzzed
def test_headers_that_lie_about_tensors_do_no_harm(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(EACH):
        use(lying(draw))


CLASSES = [
    "os:system",
    "builtins:eval",
    "subprocess:Popen",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion:StableDiffusionPipeline",
    "diffusers.schedulers.scheduling_ddim:DDIMSchedulerOutput",
    "diffusers.commands.env:EnvironmentCommand",
    "transformers.models.clip.modeling_clip:CLIPOutput",
    "transformers.utils.hub:cached_file",
    "diffusers.models.modeling_outputs:Transformer2DModelOutput",
]
FIELDS = ["sample", "prev_sample", "pred_original_sample", "__class__", "__dict__", "keys"]


def hostile_node(draw: random.Random) -> object:
    kind = draw.choice(["node", "output", "zeros", "anything"])
    if kind == "node":
        more = {draw.choice(KEYS): anything(draw) for _ in range(draw.randrange(2))}
        return {draw.choice(KEYS): anything(draw), **more}
    if kind == "output":
        fields = [[name, anything(draw)] for name in draw.sample(FIELDS, draw.randrange(4))]
        return {"$output": draw.choice(CLASSES), "fields": fields}
    if kind == "zeros":
        shape = [draw.choice([0, 1, 2, 3, 2**20, 2**40, 2**41]) for _ in range(draw.randrange(4))]
        return {"$zeros": shape, "dtype": "float32"}
    return anything(draw)


def hostile_body(draw: random.Random) -> bytes:
    place = draw.choice(["value", "skeletons", "order", "new"])
    node = hostile_node(draw)
    if draw.random() < 0.5:
        node = {draw.choice(["$list", "$tuple"]): [node]}
    return with_body(lambda body: body.update({place: [node] if place == "skeletons" else node}))


@CASES
@fuzzed
def test_bodies_with_nodes_that_were_made_up_do_no_harm(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(EACH):
        use(hostile_body(draw))


# ---------------------------------------------------------------- bombs


def nested(depth: int, before: str = '{"$list":[', after: str = "]}") -> bytes:
    header, section = parts()
    header["__metadata__"]["body"] = '{"value":' + before * depth + after * depth + "}"
    return built(header, section)


def raw_header(text: bytes) -> bytes:
    return sealed(len(text).to_bytes(8, "little") + text)


PREFIX = VALID[8:34] + b"0" * 64 + b'","kind":"kubediffusion checkpoint","format":"1"'


def used_often(tensor: torch.Tensor, times: int) -> bytes:
    """Make a sealed file that refers to a tensor more often than may be."""
    data = specimens.of(tensor)
    reference = b'{\\"$tensor\\":\\"value\\"}'
    length = int.from_bytes(data[:8], "little") + 8
    assert reference in data
    many = b'{\\"$list\\":[' + b",".join([reference] * times) + b"]}"
    header = data[8:length].replace(reference, many)
    return sealed(len(header).to_bytes(8, "little") + header + data[length:])


@functools.cache
def bombs() -> dict[str, bytes]:
    header, section = parts()
    huge = {"dtype": "U8", "shape": [2**62], "data_offsets": [0, 2**62]}
    many = {f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(70_000)}
    twice = {**header, "value.zzz": dict(header["value.latents"])}
    return {
        "empty": b"",
        "header of 2**63 bytes": (2**63).to_bytes(8, "little") + VALID[8:],
        "header of 2**64-1 bytes": (2**64 - 1).to_bytes(8, "little") + VALID[8:],
        "huge shape": built({**header, "value.latents": huge}, section),
        "too many tensors": built({**header, **many}, section),
        "tensors that overlap": built(twice, section),
        "unused bytes": built(header, section + bytes(16)),
        "deep nodes": nested(20_000),
        "deep arrays": nested(100_000, "[", "]"),
        "nodes deeper than values": nested(25),
        "deep header": raw_header(PREFIX + b'},"x":' + b"[" * 1_000_000),
        "key twice": raw_header(PREFIX + b',"format":"1"}}'),
        "no UTF-8": raw_header(PREFIX + b',"x":"\xff\xfe"}}'),
        "half a character": raw_header(PREFIX + b',"x":"\\ud800"}}'),
        "a number too large to be one": raw_header(PREFIX + b'},"x":' + b"9" * 100_000 + b"}"),
        "infinity": raw_header(PREFIX + b'},"x":1e999}'),
        "a million empty lists": raw_header(PREFIX + b'},"x":[' + b"[]," * 5_000_000 + b"[]]}"),
        "a long header": raw_header(PREFIX + b"}}" + b" " * 17_000_000),
        "a tensor of 1 MB 3000 times": used_often(torch.zeros(250_000), 3000),
        "huge stand-in": with_body(
            lambda body: body.update(
                skeletons=[{"$list": [{"$zeros": [10**9], "dtype": "bool"}] * 1000}]
            )
        ),
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_without_growing(name: str) -> None:
    data = bombs()[name]
    tracemalloc.start()
    try:
        assert not use(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000_000


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="measured through /proc")
def test_refusing_keeps_no_memory() -> None:
    refused = [VALID[:-1], nested(25), built({**parts()[0], "x": 1}, parts()[1])]
    sizes = []
    for _ in range(3):  # The first round fills caches.
        for _ in range(100):
            assert not any(map(use, refused))
        gc.collect()
        sizes.append(resident_bytes())
    assert sizes[-1] - sizes[0] < 5_000_000

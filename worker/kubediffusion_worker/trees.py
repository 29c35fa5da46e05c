"""Python values as JSON with tensors beside it, and back: what checkpoints are made of.

A value becomes a *node*, see `nodes`. A *skeleton* is a node that says how a value looks, not
what it holds; a stand-in is made from it.

"cpu" and "device" are all that is kept of where tensors were. A run whose tensors are all on
the CPU can therefore go on only where the CPU computes too.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from kubediffusion_wire import errors
from kubediffusion_worker import layouts, nodes, output_classes, runs

Node = nodes.Node

MAX_DEPTH = 20
"""Containers within containers."""

MAX_STAND_IN_BYTES = 2_000_000_000
"""Of all tensors of one stand-in; outputs of real models have less than a tenth."""

_MAX_KEY = 200
_UNSAFE = re.compile(r"[^\w.-]", re.ASCII)


# ---------------------------------------------------------------- values to nodes


def flatten(value: object, tensors: dict[str, torch.Tensor], name: str) -> Node:
    """Returns a value as a node.

    Args:
        value: None, bool, int, float, str, list, tuple, dict with keys of str or int, tensors,
            numpy arrays and scalars, `torch.dtype`, `torch.device`, `torch.Size`, output
            dataclasses of diffusers and transformers, and anything made of these.
        tensors: Takes copies of the tensors, contiguous and each on its own device.
        name: What the names of these tensors begin with; unique within `tensors`.

    Raises:
        runs.NotCapturableError: Something in it has no form as data; names where, and its class.
    """
    return _Flattener(tensors).node(value, name, 0)


def skeleton_of(output: object) -> Node:
    """Returns how an output looks; what has no form as data becomes `$opaque`."""
    return _Outliner().node(output, "", 0)


class _Writer:
    """Turns values into nodes; subclasses say what becomes of tensors and of the unknown."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def tensor(self, value: torch.Tensor, path: str) -> Node:
        raise NotImplementedError

    def array(self, value: "np.ndarray[Any, Any]", path: str) -> Node:
        raise NotImplementedError

    def unknown(self, value: object, path: str) -> Node:
        raise NotImplementedError

    def node(self, value: object, path: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            return self.unknown(value, path)
        if value is None or type(value) in (bool, str, int, float):
            return _literal(value)
        if type(value) in (list, tuple, dict):
            return self._guarded(value, path, depth)
        if isinstance(value, torch.Tensor):
            return self.tensor(value, path) if _is_plain(value) else self.unknown(value, path)
        if type(value) is np.ndarray and _is_plain_numpy(value.dtype):
            return self.array(value, path)
        return self._other(value, path, depth)

    def _guarded(self, value: Any, path: str, depth: int) -> Node:
        if id(value) in self._open:  # It holds itself.
            return self.unknown(value, path)
        self._open.add(id(value))
        try:
            return self._container(value, path, depth)
        finally:
            self._open.discard(id(value))

    def _container(self, value: Any, path: str, depth: int) -> Node:
        if type(value) is dict:
            if not all(type(key) in (str, int) for key in value):
                return self.unknown(value, path)
            pairs = value.items()
            return {"$dict": [[k, self.node(v, f"{path}.{k}", depth + 1)] for k, v in pairs]}
        items = [self.node(each, f"{path}.{i}", depth + 1) for i, each in enumerate(value)]
        return {"$list" if type(value) is list else "$tuple": items}

    def _other(self, value: object, path: str, depth: int) -> Node:
        if isinstance(value, np.generic) and _is_plain_numpy(value.dtype):
            return {"$number": [value.dtype.name, value.tobytes().hex()]}
        if isinstance(value, torch.Size):
            return {"$size": list(value)}
        if isinstance(value, torch.dtype):
            return {"$dtype": layouts.name_of(value)}
        if isinstance(value, torch.device):
            return {"$device": _place(value)}
        name = output_classes.name_of(value)
        if name is None:
            return self.unknown(value, path)
        found = output_classes.fields_of(value).items()
        fields = [[k, self.node(v, f"{path}.{k}", depth + 1)] for k, v in found]
        return {"$output": name, "fields": fields}


class _Flattener(_Writer):
    """Keeps what tensors hold."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._tensors = tensors
        # A tensor that is in a value twice is stored once, and is one tensor again when it is
        # rebuilt. The values are kept so that their ids stay taken.
        self._known: dict[int, tuple[object, Node]] = {}

    def tensor(self, value: torch.Tensor, path: str) -> Node:
        if id(value) not in self._known:
            self._known[id(value)] = (value, self._stored("$tensor", value.detach(), path))
        return self._known[id(value)][1]

    def array(self, value: "np.ndarray[Any, Any]", path: str) -> Node:
        if id(value) not in self._known:
            tensor = torch.from_numpy(np.array(value, order="K"))
            self._known[id(value)] = (value, self._stored("$array", tensor, path))
        return self._known[id(value)][1]

    def unknown(self, value: object, path: str) -> Node:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise runs.NotCapturableError(f"{path} has no form as data: {kind}")

    def _stored(self, key: str, value: torch.Tensor, path: str) -> Node:
        name = self._free_name(path)
        node: dict[str, Node] = {key: name}
        if value.device.type != "cpu":
            node["on"] = "device"
        strides = layouts.own_strides(value)
        if strides is not None:
            node["strides"] = list(strides)
        copied = value.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        if copied.dtype not in layouts.STORED_NAMES:
            node["as"] = layouts.name_of(copied.dtype)
            copied = copied.unsqueeze(-1).view(torch.uint8)
        self._tensors[name] = copied
        return node

    def _free_name(self, path: str) -> str:
        wanted = name = _UNSAFE.sub("_", path)[:_MAX_KEY]
        count = 1
        while name in self._tensors:
            count += 1
            name = f"{wanted}~{count}"
        return name


class _Outliner(_Writer):
    """Keeps how tensors look."""

    def tensor(self, value: torch.Tensor, path: str) -> Node:
        node: dict[str, Node] = {
            "$zeros": list(value.shape),
            "dtype": layouts.name_of(value.dtype),
        }
        if value.device.type != "cpu":
            node["on"] = "device"
        strides = layouts.own_strides(value)
        if strides is not None:
            node["strides"] = list(strides)
        return node

    def array(self, value: "np.ndarray[Any, Any]", path: str) -> Node:
        return self.unknown(value, path)

    def unknown(self, value: object, path: str) -> Node:
        return {"$opaque": f"{type(value).__module__}.{type(value).__qualname__}"[:_MAX_KEY]}


def _literal(value: Any) -> Node:
    if type(value) is int and not -(2**63) <= value < 2**63:
        return {"$int": hex(value)}
    if type(value) is float:
        return {"$float": value.hex()}
    return value


def _place(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "device"


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and tensor.dim() <= layouts.MAX_DIMENSIONS
        and layouts.name_of(tensor.dtype) in layouts.DTYPES
    )


def _is_plain_numpy(dtype: "np.dtype[Any]") -> bool:
    return dtype.isnative and dtype.name in nodes.NUMBERS


# ---------------------------------------------------------------- nodes to values


def rebuild(node: Node, tensors: Mapping[str, torch.Tensor], device: torch.device | str) -> Any:
    """Makes the value of a node; its tensors are copies, laid out as they were.

    Args:
        node: What `flatten` returned.
        tensors: By name.
        device: For what was not on the CPU.

    Raises:
        errors.InvalidCheckpointError: It is no node, or a tensor is missing.
    """
    return _Rebuilder(tensors, torch.device(device)).value(node, 0)


def stand_in(node: Node, device: torch.device | str) -> Any:
    """Makes something that looks like the output of a skeleton; its tensors hold zeros.

    Args:
        node: What `skeleton_of` returned.
        device: For what was not on the CPU.

    Raises:
        errors.InvalidCheckpointError: It is no skeleton, it is opaque, or it is larger than
            `MAX_STAND_IN_BYTES`.
    """
    # Measured first, so that nothing is allocated where it is too large as a whole.
    measured = _Imitator(torch.device("meta"))
    measured.value(node, 0)
    if measured.bytes > MAX_STAND_IN_BYTES:
        raise errors.InvalidCheckpointError("it has an output that is too large")
    return _Imitator(torch.device(device)).value(node, 0)


def is_opaque(node: Node) -> bool:
    """Tells whether no stand-in can be made of a skeleton."""
    if isinstance(node, list):
        return any(is_opaque(each) for each in node)
    return isinstance(node, dict) and (
        "$opaque" in node or any(is_opaque(each) for each in node.values())
    )


class _Reader:
    """Turns nodes into values; subclasses say what becomes of tensors."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def facts(self, name: str) -> nodes.TensorFacts | None:
        """Returns type and shape of a stored tensor."""
        raise NotImplementedError

    def tensor(self, key: str, node: Mapping[str, Node]) -> object:
        raise NotImplementedError

    def value(self, node: Node, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise errors.InvalidCheckpointError("it has values that are nested too deeply")
        if not isinstance(node, dict):
            return nodes.checked_literal(node)
        key = nodes.check(node, self.facts)
        if key in ("$tensor", "$array", "$zeros"):
            return self.tensor(key, node)
        if key in _SCALARS:
            return _SCALARS[key](node[key])
        if key == "$device":
            return torch.device("cpu") if node[key] == "cpu" else self._device
        return self._container(key, node, depth)

    def _container(self, key: str, node: Mapping[str, Node], depth: int) -> Any:
        if key == "$list":
            return [self.value(each, depth + 1) for each in node[key]]
        if key == "$tuple":
            return tuple(self.value(each, depth + 1) for each in node[key])
        if key == "$dict":
            return {name: self.value(each, depth + 1) for name, each in node[key]}
        if key == "$output":
            fields = {name: self.value(each, depth + 1) for name, each in node["fields"]}
            return output_classes.build(node[key], fields)
        raise errors.InvalidCheckpointError("it has an output without a form as data")

    def _place(self, node: Mapping[str, Node]) -> torch.device:
        return self._device if "on" in node else torch.device("cpu")


class _Rebuilder(_Reader):
    def __init__(self, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
        super().__init__(device)
        self._tensors = tensors
        self._sources: dict[str, torch.Tensor] = {}
        self._made: dict[str, tuple[Node, object]] = {}

    def facts(self, name: str) -> nodes.TensorFacts | None:
        if name not in self._tensors:
            return None
        source = self._sources.setdefault(name, self._tensors[name])
        return layouts.name_of(source.dtype), source.shape

    def tensor(self, key: str, node: Mapping[str, Node]) -> object:
        if key == "$zeros":
            raise errors.InvalidCheckpointError("it has a skeleton in place of a value")
        name = node[key]
        # Each stored tensor is made once, so that what was one tensor is one tensor again.
        if name not in self._made:
            self._made[name] = (node, self._new(key, node))
        known, made = self._made[name]
        if known != node:
            raise errors.InvalidCheckpointError("it uses a tensor in two ways")
        return made

    def _new(self, key: str, node: Mapping[str, Node]) -> object:
        source = self._sources[node[key]]
        if "as" in node:
            source = source.contiguous().view(layouts.BYTE_DTYPES[node["as"]]).squeeze(-1)
        strides = node.get("strides", layouts.contiguous_strides(source.shape))
        made = torch.empty_strided(
            source.shape, strides, dtype=source.dtype, device=self._place(node)
        )
        made.copy_(source)
        return made.numpy() if key == "$array" else made


class _Imitator(_Reader):
    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.bytes = 0

    def facts(self, name: str) -> nodes.TensorFacts | None:
        return None

    def tensor(self, key: str, node: Mapping[str, Node]) -> object:
        # Stored tensors have failed the check, as none is known here.
        shape, dtype = node["$zeros"], layouts.DTYPES[node["dtype"]]
        self.bytes += math.prod(shape) * dtype.itemsize
        strides = node.get("strides", layouts.contiguous_strides(shape))
        made = torch.empty_strided(shape, strides, dtype=dtype, device=self._place(node))
        return made.zero_()

    def _place(self, node: Mapping[str, Node]) -> torch.device:
        return self._device if self._device.type == "meta" else super()._place(node)


def _number(value: tuple[str, str]) -> object:
    name, digits = value
    return np.frombuffer(bytes.fromhex(digits), dtype=name)[0]


_SCALARS: Mapping[str, Callable[[Any], object]] = {
    "$int": lambda digits: int(digits, 16),
    "$float": float.fromhex,
    "$size": torch.Size,
    "$number": _number,
    "$dtype": lambda name: layouts.DTYPES[name],
}

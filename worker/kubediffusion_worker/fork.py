"""Copies of a pipeline for one call each, which share nothing that a call changes.

A fork has the same weights as the pipeline, its own attributes, never-used schedulers, and
*twins* of the modules: other objects with the same parameters and submodules, whose calls pass
the seams and then run the shared module. The shared modules are never patched, so nothing is
left to be undone, and hooks and compiled code on them keep working.
"""

import collections
import contextlib
import copy
import functools
import inspect
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from diffusers.guiders import guider_utils
from diffusers.pipelines import pipeline_utils

from kubediffusion_worker import seams

PartT = TypeVar("PartT")

_METHODS = ("encode", "decode")
_SEAMS = "_kubediffusion_seams"
_HOOK_DICTS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def is_scheduler(value: object) -> bool:
    """Tells whether something steps through timesteps."""
    return hasattr(value, "step") and hasattr(value, "set_timesteps")


class Pristine:
    """Never-used copies of the stateful parts of a pipeline: schedulers and guiders.

    A used one differs from a new one: solvers keep their history, and pipelines correct a
    scheduler's configuration when they are made, so it cannot be rebuilt from that either.
    """

    def __init__(self) -> None:
        # The original is kept so that its id stays taken.
        self._copies: dict[int, tuple[object, object]] = {}

    def fresh(self, original: object) -> object:
        """Returns a new copy of a part, as it was when it was first asked for."""
        if id(original) not in self._copies:
            self._copies[id(original)] = (original, copy.deepcopy(original))
        return copy.deepcopy(self._copies[id(original)][1])

    def remember(self, pipeline: pipeline_utils.DiffusionPipeline) -> None:
        """Copies all stateful parts of a pipeline that has not been called yet."""
        for each in pipelines(pipeline):
            for part in _leaves(list(vars(each).values())):
                if _is_stateful(part):
                    self.fresh(part)


def pipelines(
    pipeline: pipeline_utils.DiffusionPipeline,
) -> list[pipeline_utils.DiffusionPipeline]:
    """Returns a pipeline and all that are nested in it."""
    parts = _leaves(list(vars(pipeline).values()))
    nested = [part for part in parts if isinstance(part, pipeline_utils.DiffusionPipeline)]
    return [pipeline, *(each for part in nested for each in pipelines(part))]


def parts(pipeline: pipeline_utils.DiffusionPipeline) -> list[object]:
    """Returns what a pipeline is made of, without what is in pipelines that are nested in it."""
    return list(_leaves(list(vars(pipeline).values())))


def modules(pipeline: pipeline_utils.DiffusionPipeline) -> list[torch.nn.Module]:
    """Returns the modules that a pipeline and those nested in it are made of."""
    return [
        part
        for each in pipelines(pipeline)
        for part in _leaves(list(vars(each).values()))
        if isinstance(part, torch.nn.Module)
    ]


@contextlib.contextmanager
def forked(
    pipeline: pipeline_utils.DiffusionPipeline, pristine: Pristine, handler: seams.Seams
) -> Iterator[pipeline_utils.DiffusionPipeline]:
    """Lends a copy of a pipeline for one call, with a handler at its seams.

    Args:
        pipeline: Stays as it is.
        pristine: Where its schedulers and guiders come from.
        handler: Stands in the calls of the copy.
    """
    forking = _Forking(pristine, handler)
    try:
        yield forking.pipeline(pipeline, "")
    finally:
        # The parts refer to each other in circles: cut, they free their tensors at once.
        for part in forking.parts:
            vars(part).clear()


class _Forking:
    """Makes the parts of one fork; a part that occurs twice is copied once."""

    def __init__(self, pristine: Pristine, handler: seams.Seams) -> None:
        self._pristine = pristine
        self._handler = handler
        self._made: dict[int, object] = {}
        self.parts: list[object] = []

    def pipeline(
        self, original: pipeline_utils.DiffusionPipeline, prefix: str
    ) -> pipeline_utils.DiffusionPipeline:
        fork = _bare_copy(original)
        self._keep(original, fork)
        for name, value in vars(original).items():
            vars(fork)[name] = self._value(value, f"{prefix}{name}")
        vars(fork)["_progress_bar_config"] = {"disable": True}
        # It would move accelerate's hooks to the twins; they belong to the shared modules.
        vars(fork)["maybe_free_model_hooks"] = original.maybe_free_model_hooks
        return fork

    def _value(self, value: object, name: str) -> object:
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, pipeline_utils.DiffusionPipeline):
            return self.pipeline(value, f"{name}.")
        if isinstance(value, torch.nn.Module):
            return self._twin(value, name)
        if _is_stateful(value):
            return self._fresh(value)
        return self._container(value, name)

    def _container(self, value: object, name: str) -> object:
        if type(value) in (list, tuple):
            items = cast("list[object]", value)
            return type(items)(self._value(item, f"{name}.{i}") for i, item in enumerate(items))
        if type(value) is dict:
            entries = cast("dict[object, object]", value)
            return {key: self._value(item, f"{name}.{key}") for key, item in entries.items()}
        return value

    def _fresh(self, original: object) -> object:
        part = self._pristine.fresh(original)
        if is_scheduler(part):
            part.__class__ = _stepped_class(type(part))
            vars(part)[_SEAMS] = _Reference(self._handler)
        self._keep(original, part)
        return part

    def _twin(self, module: torch.nn.Module, name: str) -> torch.nn.Module:
        if isinstance(module, torch.jit.ScriptModule):
            return module  # It lives in C++ and has no copy of its own.
        twin = _bare_copy(module)
        self._keep(module, twin)
        state = vars(twin)
        state.update(vars(module))
        for attribute in ("_parameters", "_buffers", "_modules"):
            state[attribute] = dict(state[attribute])
        for attribute in _HOOK_DICTS:
            state[attribute] = collections.OrderedDict()
        # The shared module has these and is what runs in the end.
        state["_compiled_call_impl"] = None
        state["forward"] = self._through_seam(name, "forward", module, module.forward, module)
        for method in _METHODS:
            if hasattr(type(module), method):
                function = vars(module).get(method) or types.MethodType(
                    getattr(type(module), method), twin
                )
                state[method] = self._through_seam(name, method, module, function, function)
        return twin

    def _through_seam(
        self,
        name: str,
        method: str,
        module: torch.nn.Module,
        signature: Callable[..., object],
        function: Callable[..., object],
    ) -> Callable[..., object]:
        handler = self._handler

        # Pipelines read the signatures of what they call.
        @functools.wraps(signature)
        def call(*args: object, **kwargs: object) -> object:
            return handler.module(seams.ModuleCall(name, method, module, function, args, kwargs))

        return call

    def _keep(self, original: object, part: object) -> None:
        self._made[id(original)] = part
        self.parts.append(part)


class _Reference:
    """Holds the seams inside of a scheduler; pipelines copy schedulers deeply."""

    def __init__(self, handler: seams.Seams) -> None:
        self.handler = handler

    def __deepcopy__(self, memo: dict[int, object]) -> "_Reference":
        return self


class _SteppedType(type):
    """Makes a class that is equal to its parent: a pipeline compares `type(self.scheduler)`."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__base__

    def __hash__(cls) -> int:
        return hash(cls.__base__)


_stepped_classes: dict[type, type] = {}
_stepped_lock = threading.Lock()


def _stepped_class(parent: type) -> type:
    """Returns the class of a scheduler with seams; a class so that copies have them too."""
    with _stepped_lock:
        if parent not in _stepped_classes:
            _stepped_classes[parent] = _make_stepped_class(parent)
        return _stepped_classes[parent]


def _make_stepped_class(parent: Any) -> type:  # any class with step and set_timesteps
    own_step, own_set_timesteps = parent.step, parent.set_timesteps
    names = tuple(inspect.signature(own_step).parameters)[1:]

    @functools.wraps(own_step)
    def step(self: object, *args: object, **kwargs: object) -> object:
        call = seams.StepCall(self, own_step, names, args, kwargs)
        return _handler(self).step(call)

    @functools.wraps(own_set_timesteps)
    def set_timesteps(self: object, *args: object, **kwargs: object) -> object:
        result = own_set_timesteps(self, *args, **kwargs)
        _handler(self).timesteps_set(self)
        return result

    body = {"step": step, "set_timesteps": set_timesteps, "__module__": parent.__module__}
    if type(parent) is type:
        return _SteppedType(parent.__name__, (parent,), body)
    # A class and its parent must have metaclasses that get along, for example ABCMeta.
    metaclass = type("_SteppedType", (_SteppedType, type(parent)), {})
    return cast("type", metaclass(parent.__name__, (parent,), body))


def _handler(scheduler: object) -> seams.Seams:
    return cast("_Reference", vars(scheduler)[_SEAMS]).handler


def _bare_copy(original: PartT) -> PartT:
    """Makes an object of the same class without running any of its code."""
    return object.__new__(type(original))


def _leaves(value: object) -> Iterator[object]:
    """Yields what is in plain containers, at any depth."""
    if type(value) in (list, tuple):
        for item in cast("list[object]", value):
            yield from _leaves(item)
    elif type(value) is dict:
        yield from _leaves(list(cast("dict[object, object]", value).values()))
    else:
        yield value


def _is_stateful(value: object) -> bool:
    return isinstance(value, guider_utils.BaseGuidance) or (
        is_scheduler(value) and not isinstance(value, torch.nn.Module)
    )

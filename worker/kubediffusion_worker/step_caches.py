"""The states of step caches, such as FirstBlockCache: one set for each run.

diffusers keeps them in hooks on the modules, which all runs share. They are put there only
while a module of their own run computes.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers.hooks import hooks

_REGISTRY = "_diffusers_hook"
_STATE = "state"
_CACHE = "_state_cache"


class _Manager:
    """One object that keeps states by the name of a context."""

    def __init__(self, manager: hooks.StateManager) -> None:
        self._manager: Any = manager
        self._context: Any = None
        self.states: dict[str, Any] = {}

    def note(self) -> None:
        self._context = self._manager._context

    def put(self) -> None:
        self._manager._context = self._context
        self._manager._state_cache = self.states

    def take(self) -> None:
        self._manager._state_cache = {}

    def clear(self) -> None:
        self.states.clear()

    def new_state(self, name: str) -> Any:
        manager = self._manager
        self.states[name] = manager._state_cls(*manager._init_args, **manager._init_kwargs)
        return self.states[name]


class _Holder:
    """A hook that keeps one state of its own."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook
        self._new = copy.deepcopy(hook.state)
        self._new.reset()
        self.states: dict[str, Any] = {_STATE: copy.deepcopy(self._new)}

    def note(self) -> None:
        pass

    def put(self) -> None:
        self._hook.state = self.states[_STATE]

    def take(self) -> None:
        self._hook.state = copy.deepcopy(self._new)

    def clear(self) -> None:
        self.states[_STATE] = copy.deepcopy(self._new)

    def new_state(self, name: str) -> Any:
        return self.states[name]


class StepCaches:
    """The states of one run."""

    def __init__(self) -> None:
        """Starts without any."""
        self._stores: dict[int, tuple[torch.nn.Module, dict[str, _Manager | _Holder]]] = {}
        self._saved: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}

    def around(
        self, name: str, module: torch.nn.Module
    ) -> contextlib.AbstractContextManager[None]:
        """Returns what puts the states of this run into a module's hooks for a while.

        What a pipeline has said of the call that it is about to make is noted here: another
        run may say something else of the same module until then.
        """
        known = self._stores.get(id(module))
        if known is None:
            known = self._stores[id(module)] = (module, self._found(name, module))
        if not known[1]:
            return _NOTHING
        for store in known[1].values():
            store.note()
        return _lent(known[1])

    def capture(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Returns what the states hold, by module and hook, and context.

        Raises:
            runs.NotCapturableError: A state holds what has no form as data.
        """
        return {
            place: {name: dict(vars(state)) for name, state in store.states.items()}
            for _, stores in self._stores.values()
            for place, store in stores.items()
            if store.states
        }

    def restore(self, saved: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Makes the states what they were; those of modules that have not been called yet too."""
        self._saved = saved
        for _, stores in self._stores.values():
            for place, store in stores.items():
                store.clear()
                self._fill(place, store)

    def _found(self, name: str, module: torch.nn.Module) -> dict[str, _Manager | _Holder]:
        stores = dict(_stores(name, module))
        for place, store in stores.items():
            self._fill(place, store)
        return stores

    def _fill(self, place: str, store: _Manager | _Holder) -> None:
        for name, values in self._saved.get(place, {}).items():
            vars(store.new_state(name)).update(values)


def _stores(name: str, module: torch.nn.Module) -> Iterator[tuple[str, _Manager | _Holder]]:
    seen: set[int] = set()
    for path, part in module.named_modules():
        registry = vars(part).get(_REGISTRY)
        for hook_name, hook in registry.hooks.items() if registry is not None else ():
            if not hook._is_stateful:
                continue
            for attribute, value in vars(hook).items():
                if isinstance(value, hooks.StateManager) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{name}|{path}|{hook_name}|{attribute}", _Manager(value)
                elif attribute == _STATE and hasattr(value, "reset"):
                    yield f"{name}|{path}|{hook_name}|{attribute}", _Holder(hook)


@contextlib.contextmanager
def _lent(stores: Mapping[str, _Manager | _Holder]) -> Iterator[None]:
    for store in stores.values():
        store.put()
    try:
        yield
    finally:
        for store in stores.values():
            store.take()


_NOTHING = contextlib.nullcontext()

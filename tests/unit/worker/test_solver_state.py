"""What of a scheduler goes into a checkpoint: what steps have changed, and nothing else."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kubediffusion_worker import runs, solver_state


def baseline_of(scheduler: SimpleNamespace) -> solver_state.Baseline:
    return solver_state.Baseline(solver_state.attributes(scheduler))


def difference(baseline: solver_state.Baseline, scheduler: SimpleNamespace) -> dict[str, Any]:
    return baseline.difference(solver_state.attributes(scheduler))


def test_list_is_compared_with_what_it_held_before_things_moved_in_it() -> None:
    scheduler = SimpleNamespace(history=[None, None], order=2)
    baseline = baseline_of(scheduler)
    scheduler.history[-1] = 7
    assert difference(baseline, scheduler) == {"history": [None, 7]}


def test_what_an_earlier_run_has_left_is_kept() -> None:
    scheduler = SimpleNamespace(order=2)
    baseline = baseline_of(scheduler)
    scheduler.this_order = 2
    before = solver_state.attributes(scheduler)
    scheduler.sigmas = torch.ones(4)  # As `set_timesteps` makes them.
    baseline.update(before, solver_state.attributes(scheduler))
    assert difference(baseline, scheduler) == {"this_order": 2}


def test_what_set_timesteps_makes_is_not_kept() -> None:
    scheduler = SimpleNamespace(timesteps=None)
    baseline = baseline_of(scheduler)
    before = solver_state.attributes(scheduler)
    scheduler.timesteps = torch.arange(4)
    baseline.update(before, solver_state.attributes(scheduler))
    scheduler.step_index = 1
    assert difference(baseline, scheduler) == {"step_index": 1}


def test_configuration_is_never_kept() -> None:
    scheduler = SimpleNamespace(_internal_dict={"a": 1})
    baseline = baseline_of(scheduler)
    scheduler._internal_dict = {"a": 2}
    assert difference(baseline, scheduler) == {}


def test_function_made_by_a_step_has_no_form_as_data() -> None:
    scheduler = SimpleNamespace()
    baseline = baseline_of(scheduler)
    scheduler.noise = lambda: None
    with pytest.raises(runs.NotCapturableError, match="noise"):
        difference(baseline, scheduler)

import copy
import inspect

import diffusers
import pytest
import torch
from diffusers.pipelines import pipeline_utils
from diffusers.schedulers import scheduling_ddim, scheduling_euler_discrete

from kubediffusion_worker import fork, seams


class Log:
    """Handles seams by writing down what passes them."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def timesteps_set(self, scheduler: object) -> None:
        self.calls.append("timesteps")

    def step(self, call: seams.StepCall) -> object:
        self.calls.append(f"step {call.argument('timestep')}")
        return call.run()

    def module(self, call: seams.ModuleCall) -> object:
        self.calls.append(f"{call.name}.{call.method}")
        return call.run()


class Denoiser(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.note = "original"

    def forward(self, sample: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        result: torch.Tensor = self.layer(sample) * scale
        return result

    def decode(self, sample: torch.Tensor) -> torch.Tensor:
        self.note = "changed while decoding"
        return sample


class Toy(pipeline_utils.DiffusionPipeline):
    def __init__(self, unet: Denoiser, scheduler: object) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.remembered: list[object] = []
        self.extras = {"second": scheduler}


@pytest.fixture
def toy() -> Toy:
    return Toy(Denoiser(), scheduling_ddim.DDIMScheduler())


@pytest.fixture
def log() -> Log:
    return Log()


def test_scheduler_of_a_fork_reports_its_calls(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        forked.scheduler.set_timesteps(2)
        forked.scheduler.step(torch.zeros(1), 500, torch.zeros(1))
    assert log.calls == ["timesteps", "step 500"]


def test_deep_copy_of_the_scheduler_reports_too(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        second = copy.deepcopy(forked.scheduler)
        second.set_timesteps(2)
        second.step(torch.zeros(1), 500, torch.zeros(1))
    assert log.calls == ["timesteps", "step 500"]


def test_copies_of_a_scheduler_have_states_of_their_own(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        second = copy.deepcopy(forked.scheduler)
        second.set_timesteps(7)
        assert forked.scheduler.num_inference_steps is None


def test_scheduler_that_occurs_twice_is_copied_once(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        assert forked.extras["second"] is forked.scheduler


def test_scheduler_with_seams_passes_for_its_class(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        kind = type(forked.scheduler)
        assert isinstance(forked.scheduler, scheduling_ddim.DDIMScheduler)
        # What a pipeline asks is whether the type differs, in either order.
        assert (kind != scheduling_ddim.DDIMScheduler) is False
        assert (scheduling_ddim.DDIMScheduler != kind) is False
        assert kind == scheduling_ddim.DDIMScheduler
        assert kind != scheduling_euler_discrete.EulerDiscreteScheduler
        assert kind in {scheduling_ddim.DDIMScheduler}
        assert (kind.__name__, kind.__module__) == (
            "DDIMScheduler",
            scheduling_ddim.__name__,
        )


def test_signatures_stay_readable(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        assert "eta" in inspect.signature(forked.scheduler.step).parameters
        assert "scale" in inspect.signature(forked.unet.forward).parameters


def test_used_scheduler_leaves_no_trace_in_the_next_fork(toy: Toy, log: Log) -> None:
    pristine = fork.Pristine()
    pristine.remember(toy)
    toy.scheduler.set_timesteps(5)
    with fork.forked(toy, pristine, log) as forked:
        assert forked.scheduler.num_inference_steps is None
        forked.scheduler.set_timesteps(3)
    with fork.forked(toy, pristine, log) as forked:
        assert forked.scheduler.num_inference_steps is None


def test_scheduler_that_was_swapped_is_used(toy: Toy, log: Log) -> None:
    pristine = fork.Pristine()
    pristine.remember(toy)
    toy.scheduler = scheduling_euler_discrete.EulerDiscreteScheduler()
    with fork.forked(toy, pristine, log) as forked:
        assert type(forked.scheduler) == scheduling_euler_discrete.EulerDiscreteScheduler  # noqa: E721  # as pipelines compare


def test_correction_of_the_configuration_survives(toy: Toy, log: Log) -> None:
    toy.scheduler._internal_dict = diffusers.configuration_utils.FrozenDict(  # pyright: ignore[reportAttributeAccessIssue]  # loaded lazily
        {**toy.scheduler.config, "steps_offset": 1}
    )
    with fork.forked(toy, fork.Pristine(), log) as forked:
        assert forked.scheduler.config.steps_offset == 1


def test_forward_and_decode_of_a_twin_pass_the_seams(toy: Toy, log: Log) -> None:
    sample = torch.ones(1, 2)
    with fork.forked(toy, fork.Pristine(), log) as forked:
        assert torch.equal(forked.unet(sample, scale=2.0), toy.unet(sample, scale=2.0))
        forked.unet.decode(sample)
    assert log.calls == ["unet.forward", "unet.decode"]


def test_shared_module_is_not_patched(toy: Toy, log: Log) -> None:
    before = dict(vars(toy.unet))
    with fork.forked(toy, fork.Pristine(), log) as forked:
        forked.unet(torch.ones(1, 2))
    assert dict(vars(toy.unet)) == before
    toy.unet(torch.ones(1, 2))
    assert log.calls == ["unet.forward"]


def test_hooks_of_the_shared_module_run_once(toy: Toy, log: Log) -> None:
    seen: list[str] = []
    toy.unet.register_forward_hook(lambda *_: seen.append("hook"))
    with fork.forked(toy, fork.Pristine(), log) as forked:
        forked.unet(torch.ones(1, 2))
    assert seen == ["hook"]


def test_state_that_a_method_keeps_stays_on_the_twin(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        forked.unet.decode(torch.ones(1, 2))
        assert forked.unet.note == "changed while decoding"
    assert toy.unet.note == "original"


def test_submodule_set_on_a_twin_stays_there(toy: Toy, log: Log) -> None:
    layer = toy.unet.layer
    with fork.forked(toy, fork.Pristine(), log) as forked:
        forked.unet.layer = torch.nn.Linear(2, 2)
    assert toy.unet.layer is layer


def test_attributes_and_lists_of_a_fork_are_its_own(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        forked.remembered.append("something")
        forked.guidance = 3
    assert toy.remembered == []
    assert not hasattr(toy, "guidance")


def test_nested_pipeline_has_the_same_seams(toy: Toy, log: Log) -> None:
    outer = Toy(toy.unet, toy.scheduler)
    vars(outer)["prior_pipe"] = toy
    with fork.forked(outer, fork.Pristine(), log) as forked:
        assert forked.prior_pipe is not toy
        assert forked.prior_pipe.unet is forked.unet
        forked.prior_pipe.unet(torch.ones(1, 2))
        assert len(fork.pipelines(forked)) == 2
    assert log.calls == ["unet.forward"]


def test_fork_is_empty_once_it_is_given_back(toy: Toy, log: Log) -> None:
    with fork.forked(toy, fork.Pristine(), log) as forked:
        pass
    assert vars(forked) == {}


def test_step_arguments_are_found_by_name_in_any_place() -> None:
    def step(scheduler: object, sample: int, timestep: int, noise: int = 0) -> int:
        return sample + timestep + noise

    call = seams.StepCall(None, step, ("sample", "timestep", "noise"), (1,), {"timestep": 2})
    assert (call.argument("sample"), call.argument("timestep"), call.argument("noise")) == (
        1,
        2,
        None,
    )
    assert call.run() == 3

from typing import Any

import pytest

from kubediffusion import _config, errors
from kubediffusion.executors import command
from kubediffusion.executors import machine as machines


def config(**options: Any) -> _config.OmniDiffusionConfig:
    return _config.OmniDiffusionConfig(**{"model": "m", **options})


def machine(
    cores: int = 8,
    devices: int = 0,
    environment: dict[str, str] | None = None,
    has_quota: bool = False,
) -> machines.Machine:
    files = ["null", "nvidiactl", "nvidia-uvm", *(f"nvidia{i}" for i in range(devices))]
    return machines.Machine(
        cores=cores, has_quota=has_quota, device_files=files, environment=environment or {}
    )


def test_a_plain_configuration_gives_few_flags() -> None:
    assert command.model_flags(config()) == [
        *("--model", "m"),
        *("--dtype", "auto"),
        *("--device", "auto"),
    ]


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"revision": "r1"}, ["--revision", "r1"]),
        ({"variant": "fp16"}, ["--variant", "fp16"]),
        ({"enable_cpu_offload": True}, ["--offload", "model"]),
        (
            {"enable_cpu_offload": True, "enable_layerwise_offload": True},
            ["--offload", "sequential"],
        ),
        ({"enforce_eager": False}, ["--compile"]),
        ({"vae_use_slicing": True}, ["--vae-slicing"]),
        ({"vae_use_tiling": True}, ["--vae-tiling"]),
        ({"lora_path": {"a": "x", "b": "y"}}, ["--lora", "a=x", "--lora", "b=y"]),
        ({"worker_options": {"max_queued": 5}}, ["--max-queued", "5"]),
        ({"worker_options": {"--log-level": "DEBUG"}}, ["--log-level", "DEBUG"]),
        ({"worker_options": {"verify": True, "other": False}}, ["--verify"]),
        ({"worker_options": {"lora": ["a=x", "b=y"]}}, ["--lora", "a=x", "--lora", "b=y"]),
    ],
)
def test_options_become_flags(options: dict[str, Any], flags: list[str]) -> None:
    assert command.model_flags(config(**options))[6:] == flags


def test_a_model_must_be_named() -> None:
    with pytest.raises(errors.ConfigError, match="model"):
        command.model_flags(config(model=""))


@pytest.mark.parametrize("name", ["listen", "--listen", "parent-fd", "name"])
def test_what_the_executor_decides_cannot_be_set(name: str) -> None:
    with pytest.raises(errors.ConfigError, match="the executor does"):
        command.model_flags(config(worker_options={name: "x"}))


def test_one_worker_on_a_cpu_gets_what_torch_takes() -> None:
    (share,) = command.shares(config(), machine())
    assert share == {}
    assert command.thread_flags(config(), share) == []


def test_workers_on_a_cpu_share_its_cores() -> None:
    shares = command.shares(config(num_gpus=3), machine(cores=8))
    assert shares == [{"OMP_NUM_THREADS": "2"}] * 3
    assert command.thread_flags(config(num_gpus=3), shares[0]) == ["--threads", "2"]


def test_more_workers_than_cores_get_one_thread_each() -> None:
    assert command.shares(config(num_gpus=4), machine(cores=2))[3] == {"OMP_NUM_THREADS": "1"}


def test_one_worker_alone_does_not_take_more_than_a_quota_allows() -> None:
    (share,) = command.shares(config(), machine(cores=2, has_quota=True))
    assert command.thread_flags(config(), share) == ["--threads", "2"]


def test_threads_of_the_environment_win() -> None:
    settings = config(num_gpus=2)
    share = command.shares(settings, machine(environment={"OMP_NUM_THREADS": "3"}))[0]
    assert share == {}
    assert command.thread_flags(settings, share) == []


def test_given_threads_win() -> None:
    settings = config(num_gpus=2, threads=3)
    share = command.shares(settings, machine())[0]
    assert share == {}
    assert command.thread_flags(settings, share) == ["--threads", "3"]


def test_each_worker_gets_a_gpu() -> None:
    shares = command.shares(config(num_gpus=2), machine(devices=3))
    assert shares == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


@pytest.mark.parametrize(
    ("visible", "first"), [("2,3", "2"), ("GPU-a, GPU-b", "GPU-a"), ("1,0,-1,4", "1")]
)
def test_visible_devices_are_divided(visible: str, first: str) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    shares = command.shares(config(num_gpus=2), machine(devices=8, environment=environment))
    assert shares[0] == {"CUDA_VISIBLE_DEVICES": first}


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_devices_mean_a_cpu(visible: str) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    shares = command.shares(config(num_gpus=2), machine(devices=2, environment=environment))
    assert "CUDA_VISIBLE_DEVICES" not in shares[0]


def test_fewer_gpus_than_workers_are_refused() -> None:
    with pytest.raises(errors.ConfigError, match="at most 1"):
        command.shares(config(num_gpus=2), machine(devices=1))


def test_a_cpu_worker_is_given_no_gpu() -> None:
    (share,) = command.shares(config(device="cpu"), machine(devices=1))
    assert share == {}


def test_one_named_gpu_cannot_be_shared() -> None:
    with pytest.raises(errors.ConfigError, match="device"):
        command.shares(config(num_gpus=2, device="cuda:1"), machine(devices=2))


def test_the_given_environment_wins() -> None:
    settings = config(num_gpus=2, worker_environment={"OMP_NUM_THREADS": "7"})
    assert command.shares(settings, machine())[0] == {"OMP_NUM_THREADS": "7"}


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_numbers_of_workers_that_make_no_sense_are_refused(number: object) -> None:
    with pytest.raises(errors.ConfigError, match="num_gpus"):
        command.count(config(num_gpus=number))

"""What a configuration takes, what it refuses, and what it only seems to take."""

import dataclasses
import pathlib
import types
import warnings

import pytest

from kubediffusion import _upstream, errors
from kubediffusion._config import OmniDiffusionConfig


def test_defaults_make_sense() -> None:
    settings = OmniDiffusionConfig(model="demo").freeze()
    assert settings.model == "demo"
    assert settings.state_dir is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.model = "other"  # type: ignore[misc]  # that is the point


def test_fields_may_be_changed_until_it_is_used() -> None:
    config = OmniDiffusionConfig()
    config.distributed_executor_backend = "uni"
    config.model = "demo"
    assert config.freeze().model == "demo"


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(errors.UnknownNameError, match="did you mean 'engine_id'") as caught:
        OmniDiffusionConfig(enginee_id="e")  # type: ignore[call-arg]  # the typo
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.violations[0].field == "enginee_id"


def test_unknown_attribute_is_refused_with_the_nearest() -> None:
    config = OmniDiffusionConfig()
    with pytest.raises(AttributeError, match="did you mean 'engine_id'"):
        config.enginee_id = "e"  # type: ignore[attr-defined]  # the typo


def test_unknown_name_without_a_near_one_lists_the_known() -> None:
    with pytest.raises(errors.UnknownNameError, match=r"known: backend, .*worker_options"):
        OmniDiffusionConfig(zzzz=1)  # type: ignore[call-arg]  # the mistake


def test_alias_stands_for_its_field() -> None:
    config = OmniDiffusionConfig(backend="uni")  # type: ignore[call-arg]  # not for checkers
    assert config.distributed_executor_backend == "uni"
    with pytest.raises(errors.UnknownNameError, match="both"):
        OmniDiffusionConfig(backend="uni", distributed_executor_backend="mp")  # type: ignore[call-arg]  # as above


def test_name_without_effect_warns_once_at_the_caller() -> None:
    with pytest.warns(UserWarning, match="does not honour 'cache_backend'") as caught:
        config = OmniDiffusionConfig(cache_backend="tea_cache")  # type: ignore[call-arg]  # upstream's
    assert caught[0].filename == __file__
    assert config.cache_backend == "tea_cache"  # type: ignore[attr-defined]  # kept as it came
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config.cache_backend = "other"  # type: ignore[attr-defined]  # told already


def test_several_names_without_effect_are_one_warning() -> None:
    with pytest.warns(UserWarning, match=r"'cache_backend' .*'quantization_config' ") as caught:
        OmniDiffusionConfig(cache_backend="a", quantization_config="b")  # type: ignore[call-arg]  # upstream's
    assert len(caught) == 1


def test_absent_values_of_names_without_effect_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OmniDiffusionConfig(cache_backend=None, trust_remote_code=False)  # type: ignore[call-arg]  # upstream's


def test_no_name_has_an_effect_and_none() -> None:
    fields = {field.name for field in dataclasses.fields(OmniDiffusionConfig)}
    assert fields.isdisjoint(_upstream.IGNORED)


@pytest.mark.parametrize(
    "parallel",
    [{"tensor_parallel_size": 2}, {"ulysses_degree": 2, "ring_degree": 2}],
)
@pytest.mark.parametrize("is_object", [False, True])
def test_groups_of_gpus_are_refused(parallel: dict[str, int], is_object: bool) -> None:
    given = types.SimpleNamespace(**parallel) if is_object else parallel
    config = OmniDiffusionConfig(model="demo", parallel_config=given)
    with pytest.raises(errors.ConfigError, match="groups larger than one are not supported yet"):
        config.freeze()


def test_groups_of_one_are_taken() -> None:
    parallel = {"tensor_parallel_size": 1, "data_parallel_size": 4, "use_hsdp": False}
    OmniDiffusionConfig(model="demo", parallel_config=parallel).freeze()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_gpus", 0),
        ("takeover_seconds", -1),
        ("max_pending", float("nan")),
        ("max_pending", "many"),
        ("step_budget", -1.0),
        ("dtype", "int8"),
        ("journal_mode", "fast"),
        ("max_num_seqs", 4),
        ("engine_id", "a/b"),
        ("engine_id", ".."),
        ("lora_scale", float("inf")),
    ],
)
def test_value_out_of_bounds_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(errors.ConfigError, match=name):
        OmniDiffusionConfig(**{name: value}).freeze()  # type: ignore[arg-type]  # the mistake


def test_engine_id_is_the_same_for_a_restarted_script(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEDIFFUSION_ENGINE_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    first = OmniDiffusionConfig(model="demo").freeze().engine_id
    assert first == OmniDiffusionConfig(model="demo").freeze().engine_id
    assert first != OmniDiffusionConfig(model="other").freeze().engine_id
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert first != OmniDiffusionConfig(model="demo").freeze().engine_id


def test_environment_gives_what_is_not_configured(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEDIFFUSION_ENGINE_ID", "from-environment")
    monkeypatch.setenv("KUBEDIFFUSION_STATE_DIR", str(tmp_path))
    settings = OmniDiffusionConfig().freeze()
    assert (settings.engine_id, settings.state_dir) == ("from-environment", tmp_path)
    assert OmniDiffusionConfig(engine_id="mine").freeze().engine_id == "mine"


@pytest.mark.parametrize(
    ("given", "sources"),
    [
        (None, {}),
        ("/lora/my style.safetensors", {"my_style": "/lora/my style.safetensors"}),
        ({"a": "/x", "b": "/y"}, {"a": "/x", "b": "/y"}),
    ],
)
def test_adapters_have_names(given: str | dict[str, str] | None, sources: dict[str, str]) -> None:
    settings = OmniDiffusionConfig(lora_path=given, lora_scale=0.5).freeze()
    assert settings.adapters == sources
    assert settings.default_adapters == tuple((name, 0.5) for name in sources)


def test_checkpoints_are_fetched_unless_the_user_says_otherwise() -> None:
    assert OmniDiffusionConfig().freeze().checkpoint.fetch
    assert not OmniDiffusionConfig(checkpoint=False).freeze().checkpoint.fetch
    policy = OmniDiffusionConfig(checkpoint={"keep": 3, "max_bytes": 10}).freeze().checkpoint
    assert (policy.fetch, policy.keep, policy.max_bytes) == (True, 3, 10)


@pytest.mark.parametrize(
    "given", [{"keeps": 3}, {"keep": 0}, {"keep": True}, {"fetch": 1}, {"total_bytes": "1 GB"}]
)
def test_wrong_checkpoint_policy_is_refused_by_name(given: dict[str, object]) -> None:
    with pytest.raises(errors.ConfigError, match=next(iter(given))):
        OmniDiffusionConfig(checkpoint=given).freeze()

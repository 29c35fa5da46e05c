import pathlib

import pytest

from kubediffusion_wire import registry
from kubediffusion_worker import arguments, config


def parsed(*flags: str) -> config.ProcessConfig:
    found = arguments.parse(["--model", "demo", *flags])
    assert isinstance(found, config.ProcessConfig)
    return found


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEDIFFUSION_REGISTRY", raising=False)


def test_a_model_is_enough() -> None:
    found = parsed()
    assert found.worker.model.model == "demo"
    assert found.listen == "127.0.0.1:0"
    assert found.registry == registry.default_folder()
    assert found.http == ""
    assert found.worker.name.startswith("worker-")


def test_every_part_can_be_said() -> None:
    found = parsed(
        *("--dtype", "float16", "--device", "cuda:1", "--offload", "model", "--compile"),
        *("--vae-slicing", "--vae-tiling"),
        *("--variant", "fp16", "--revision", "main", "--threads", "3"),
        *("--lora", "style=folder", "--lora", "other=hub/id"),
        *("--name", "w0", "--listen", "unix:/run/w.sock", "--http", "127.0.0.1:0"),
        *("--registry", "none", "--parent-fd", "7", "--grace", "3.5"),
        *("--log-format", "text", "--log-level", "debug"),
    )
    wanted = found.worker.model
    assert (wanted.dtype, wanted.device, wanted.offload) == ("float16", "cuda:1", "model")
    assert (wanted.vae_slicing, wanted.vae_tiling) == (True, True)
    assert (wanted.compile, wanted.variant, wanted.revision) == (True, "fp16", "main")
    assert [(each.name, each.source) for each in found.worker.adapters] == [
        ("style", "folder"),
        ("other", "hub/id"),
    ]
    assert (found.threads, found.registry, found.parent_fd, found.grace) == (3, None, 7, 3.5)
    assert (found.log_format, found.log_level) == ("text", "DEBUG")


def test_bounds_reach_what_is_published() -> None:
    limits = parsed(
        *("--max-queued", "8", "--retain-bytes", "1000", "--max-height", "64"),
        *("--max-prompt-bytes", "99"),
    ).worker.limits()
    assert (limits.max_queued, limits.max_retained_bytes) == (8, 1000)
    assert (limits.max_height, limits.max_prompt_bytes) == (64, 99)


def test_one_engine_may_fill_a_queue_that_was_made_short() -> None:
    line = parsed("--max-queued", "8").worker.bounds.line_limits
    assert line.max_items_per_engine == 8


def test_flags_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEDIFFUSION_WORKER_MAX_QUEUED", "5")
    monkeypatch.setenv("KUBEDIFFUSION_WORKER_INSECURE", "true")
    found = parsed()
    assert found.worker.bounds.line_limits.max_items == 5
    assert found.insecure


def test_tls_needs_all_three_files(tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem")]
    for path in paths:
        path.touch()
    flags = [
        part
        for flag, path in zip(("--tls-cert", "--tls-key", "--tls-ca"), paths, strict=True)
        for part in (flag, str(path))
    ]
    found = parsed(*flags)
    assert found.tls is not None
    assert (found.tls.certificate, found.tls.key, found.tls.authority) == tuple(paths)
    assert arguments.parse(["--model", "demo", *flags[:2]]) == 2


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--model", "demo", "--dtype", "int8"],
        ["--model", "demo", "--unknown"],
        ["--model", "demo", "--listen", "nonsense"],
        ["--model", "demo", "--http", "unix:/run/x"],
        ["--model", "demo", "--lora", "noequals"],
        ["--model", "demo", "--lora", "a/b=source"],
        ["--model", "demo", "--name", "../evil"],
        ["--model", "demo", "--max-queued", "0"],
        ["--model", "demo", "--tls-cert", "missing.pem"],
        ["--model", ""],
    ],
)
def test_a_mistake_is_a_usage_error_on_standard_error(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert arguments.parse(flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err != ""
    assert "Traceback" not in captured.err


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments.parse(["--help"]) == 0
    assert "3 model cannot be loaded" in " ".join(capsys.readouterr().out.split())


def test_saving_and_looking_can_be_said() -> None:
    found = parsed(
        *("--checkpoint-seconds", "5", "--checkpoint-dir", "/saved", "--checkpoint-bytes", "99"),
        *("--preview-seconds", "0.5", "--slots", "2"),
    ).worker
    assert (found.checkpoint_seconds, found.preview_seconds) == (5.0, 0.5)
    assert found.checkpoint_folder == pathlib.Path("/saved")
    assert (found.bounds.checkpoint_limits.max_bytes, found.bounds.slots) == (99, 2)


def test_no_seconds_between_checkpoints_mean_none_by_time() -> None:
    assert parsed("--checkpoint-seconds", "0").worker.checkpoint_seconds is None
    assert parsed().worker.checkpoint_seconds == 2.0
    assert parsed().worker.checkpoint_folder is None

"""What models are certified for when they are loaded."""

import pathlib

import pytest

import zoo
from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import certificates, certification, loading, model

pytestmark = [pytest.mark.filterwarnings(each) for each in zoo.FOREIGN_WARNINGS]

DEMO = model.ModelConfig(model=model.DEMO, device="cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_demo_model_resumes_exactly_and_gives_previews() -> None:
    shared = loading.load(DEMO)
    assert shared.resume_capability == worker_pb2.RESUME_CAPABILITY_EXACT
    assert shared.has_previews


def test_what_was_found_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = loading.load(DEMO)

    def refuse(subject: certification.Subject) -> certification.Certificate:
        raise AssertionError("tried again")

    monkeypatch.setattr(certification, "certify", refuse)
    second = loading.load(DEMO)
    assert second.certificate == first.certificate
    known = certificates.recall(certificates.default_folder(), first.fingerprint)
    assert known == first.certificate


def test_without_a_trial_runs_are_restarted() -> None:
    shared = loading.load(model.ModelConfig(model=model.DEMO, device="cpu", certify=False))
    assert shared.resume_capability == worker_pb2.RESUME_CAPABILITY_RESTART


@pytest.mark.parametrize("name", ["sd15", "sd_inpaint", "ddpm", "animatediff", "dit"])
def test_pipelines_are_tried_with_what_they_need(name: str, tmp_path: pathlib.Path) -> None:
    zoo.build(name).pipeline.save_pretrained(tmp_path / name)
    shared = loading.load(model.ModelConfig(model=str(tmp_path / name), device="cpu"))
    assert shared.certificate.reason.startswith("plain, watched, resumed and cancelled")

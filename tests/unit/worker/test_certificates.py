"""Certificates in the cache."""

import pathlib

import pytest

from kubediffusion_proto.v1 import worker_pb2
from kubediffusion_worker import certificates, certification

CERTIFICATE = certification.Certificate(
    resume=worker_pb2.RESUME_CAPABILITY_EXACT, reason="all agree"
)


def test_what_is_remembered_is_recalled(tmp_path: pathlib.Path) -> None:
    certificates.remember(tmp_path / "new", "f" * 64, CERTIFICATE)
    assert certificates.recall(tmp_path / "new", "f" * 64) == CERTIFICATE


def test_another_fingerprint_has_no_certificate(tmp_path: pathlib.Path) -> None:
    certificates.remember(tmp_path, "f" * 64, CERTIFICATE)
    assert certificates.recall(tmp_path, "e" * 64) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"resume": "EXACT"}', "x" * 20_000])
def test_a_broken_file_counts_as_none(tmp_path: pathlib.Path, text: str) -> None:
    certificates.remember(tmp_path, "f" * 64, CERTIFICATE)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert certificates.recall(tmp_path, "f" * 64) is None


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    certificates.remember(tmp_path / "file" / "folder", "f" * 64, CERTIFICATE)
    assert certificates.recall(tmp_path / "file" / "folder", "f" * 64) is None


def test_the_cache_folder_can_be_chosen(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert certificates.default_folder() == tmp_path / "kubediffusion" / "certificates"

import os
import pathlib
import stat

import pytest

from kubediffusion import _sockets, errors


@pytest.fixture(autouse=True)
def temporary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    # pytest's own folders can be too long for sockets.
    folder = pathlib.Path("/tmp", f"kd-test-{os.getpid()}")
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_the_folder_is_private_and_goes_away() -> None:
    folder = _sockets.SocketFolder()
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "w.sock").touch()
    folder.close()
    folder.close()
    assert not folder.path.exists()


def test_a_stale_socket_is_removed() -> None:
    folder = _sockets.SocketFolder()
    folder.socket("w").touch()
    assert not folder.socket("w").exists()
    folder.close()


def test_folders_of_dead_engines_are_removed_and_those_of_living_ones_kept(
    temporary: pathlib.Path,
) -> None:
    dead = temporary / "kubediffusion-mp-dead"
    dead.mkdir()
    (dead / "lock").touch()
    other = temporary / "kubediffusion-mp-unlocked"
    other.mkdir()
    living = _sockets.SocketFolder()
    folder = _sockets.SocketFolder()
    assert not dead.exists()
    assert living.path.exists()
    assert other.exists()
    folder.close()
    living.close()
    other.rmdir()


def test_a_long_path_is_avoided(temporary: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = temporary / ("x" * 120)
    long.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(temporary))
    folder = _sockets.SocketFolder()
    assert folder.path.parent == temporary
    folder.close()


def test_no_usable_folder_is_a_clear_error(
    temporary: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sockets, "MAX_PATH_BYTES", 10)
    with pytest.raises(errors.ConfigError, match="TMPDIR"):
        _sockets.SocketFolder()

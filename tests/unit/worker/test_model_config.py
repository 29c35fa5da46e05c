import pathlib
import subprocess
import sys

import pytest

from kubediffusion_worker import model


@pytest.mark.parametrize("wrong", [{"model": ""}, {"dtype": "int8"}, {"offload": "disk"}])
def test_value_that_no_loader_could_use_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be"):
        model.ModelConfig(**{"model": "x", **wrong})  # type: ignore[arg-type]  # wrong on purpose


def test_importing_the_configuration_does_not_load_torch() -> None:
    code = (
        "import sys; from kubediffusion_worker import encodings, model, runs; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["missing", "a file", "an empty folder"])
def test_what_is_no_model_is_told_before_torch_is_imported(
    tmp_path: pathlib.Path, name: str
) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "an empty folder").mkdir()
    code = (
        "import sys\n"
        "from kubediffusion_worker import model\n"
        "try:\n"
        "    model.load(model.ModelConfig(model=sys.argv[1]))\n"
        "except model.ModelLoadError as error:\n"
        "    print(error)\n"
        "print(*sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    message, imported = ran.stdout.splitlines()
    assert name in message
    assert imported == ""

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

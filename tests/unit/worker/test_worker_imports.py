import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["process", "arguments", "runtime", "testing", "model"])
def test_the_runtime_answers_calls_before_torch_is_imported(module: str) -> None:
    """A worker's first answers must not wait for seconds of imports."""
    program = (
        f"import sys, kubediffusion_worker.{module}\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == []

"""Checks pictures and makes the contact sheet, by a program of the worker's package.

A program, because the engine's side imports nothing of the worker's.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from kubediffusion.cli.demo import script

_TIMEOUT = 60.0
"""In seconds; twelve pictures take one."""


def review(items: Sequence[script.Item], sheet: pathlib.Path) -> int | None:
    """Make the contact sheet, and answer how many pictures show what their prompts say.

    Args:
        items: Whose pictures are there.
        sheet: Where the contact sheet goes.

    Returns:
        None if no prompt can be checked, because all are outside the demo's vocabulary.
    """
    task = {
        "pictures": [{"path": item.path, "prompt": item.prompt} for item in items],
        "sheet": str(sheet),
    }
    done = subprocess.run(
        [sys.executable, "-m", "kubediffusion_worker.demo.review"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    )
    verdicts = [verdict["is_right"] for verdict in json.loads(done.stdout)["verdicts"]]
    checked = [is_right for is_right in verdicts if is_right is not None]
    return sum(checked) if checked else None

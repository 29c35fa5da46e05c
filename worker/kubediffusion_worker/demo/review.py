"""A program that checks pictures and lays them out on a contact sheet.

`python -m kubediffusion_worker.demo.review` reads one JSON object from standard input,
`{"pictures": [{"path": …, "prompt": …}], "sheet": …}`, writes the sheet, and prints
`{"verdicts": [{"path": …, "is_right": …, "reasons": […]}]}`. A prompt that is outside the
demo's vocabulary cannot be checked; its `is_right` is null.
"""

import json
import pathlib
import sys
from typing import Any

import numpy
import PIL.Image

from kubediffusion_worker.demo import judge, scene, sheet


def verdict(path: pathlib.Path, prompt: str) -> dict[str, Any]:  # Any: what json.dumps takes
    """Check one picture against its prompt, in the form that the program prints."""
    with PIL.Image.open(path) as picture:
        pixels = numpy.asarray(picture.convert("RGB"))
    try:
        found = judge.judge(pixels, prompt)
    except scene.PromptError:
        return {"path": str(path), "is_right": None, "reasons": []}
    return {"path": str(path), "is_right": found.is_right, "reasons": list(found.reasons)}


def main() -> None:
    """Do what standard input says."""
    task = json.load(sys.stdin)
    pictures = [(pathlib.Path(item["path"]), item["prompt"]) for item in task["pictures"]]
    images = [PIL.Image.open(path).convert("RGB") for path, _ in pictures]
    sheet.contact_sheet(images, [prompt for _, prompt in pictures]).save(task["sheet"])
    json.dump({"verdicts": [verdict(path, prompt) for path, prompt in pictures]}, sys.stdout)


if __name__ == "__main__":
    main()

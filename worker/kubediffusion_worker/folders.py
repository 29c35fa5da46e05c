"""Finds the folder of a model and says in one line what is wrong with it.

It needs neither torch nor diffusers, which take long to import: a wrong path is told at once.
"""

import json
import pathlib
import re

from kubediffusion_worker import model

_INDEX = "model_index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def local(config: model.ModelConfig) -> pathlib.Path | None:
    """Returns the folder of a model on this machine; None where it has to come from the hub.

    Raises:
        model.ModelLoadError: It can be neither here nor there.
    """
    if config.model == model.DEMO:
        from kubediffusion_worker import demo

        return demo.model_path()
    path = pathlib.Path(config.model.removeprefix("file://")).expanduser()
    if path.is_dir():
        return path
    if _HUB_ID.fullmatch(config.model) is None or path.exists():
        found = "a file" if path.exists() else "nothing"
        raise model.ModelLoadError(
            "MODEL_NOT_FOUND",
            f"model {config.model!r} must be a folder, an id of the hub such as 'name/model', or "
            f"'demo'; found {found} there",
        )
    return None


def check(folder: pathlib.Path, config: model.ModelConfig) -> str:
    """Returns the name of a model's pipeline class, which diffusers may have or not.

    Raises:
        model.ModelLoadError: Nothing could load what is in the folder.
    """
    class_name = _index(folder, config).get("_class_name")
    if not isinstance(class_name, str):
        raise model.ModelLoadError(
            "REMOTE_CODE",
            f"model {config.model!r} must be made of diffusers' own classes; found code of its "
            "own, which is never run",
        )
    found = _not_safe(folder)
    if found:
        raise model.ModelLoadError(
            "NO_SAFETENSORS",
            f"model {config.model!r} must have safetensors weights; found {found}; convert it "
            "with save_pretrained",
        )
    return class_name


def _index(folder: pathlib.Path, config: model.ModelConfig) -> dict[str, object]:
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
    except FileNotFoundError:
        raise model.ModelLoadError(
            "NOT_A_PIPELINE",
            f"model {config.model!r} must be a diffusers pipeline with a {_INDEX}; found a "
            "folder without one",
        ) from None
    except (OSError, ValueError) as error:
        raise model.ModelLoadError(
            "NOT_A_PIPELINE",
            f"model {config.model!r} must have a readable {_INDEX}; found {model.one_line(error)}",
        ) from None
    if not isinstance(index, dict):
        raise model.ModelLoadError(
            "NOT_A_PIPELINE",
            f"model {config.model!r} must have an object in {_INDEX}; found something else",
        )
    return index


def _not_safe(folder: pathlib.Path) -> str:
    """Says what is wrong with the files of weights; empty where nothing is."""
    files = list(folder.rglob("*"))
    safe = {file.parent for file in files if file.suffix == ".safetensors"}
    pickled = {file.parent for file in files if file.suffix in _PICKLES} - safe
    if pickled:
        names = sorted(part.relative_to(folder).as_posix() for part in pickled)
        return f"pickled ones only in {', '.join(names)}"
    return "" if safe else "none"

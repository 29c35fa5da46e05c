"""A small text-to-image pipeline that ships with the worker, and the tools that made it.

The pipeline draws coloured shapes on a CPU in a few seconds. It exists to show and to test what
workers do without a GPU and without a download. Importing this package imports neither torch
nor numpy.
"""

import pathlib

__all__ = ["model_path"]


def model_path() -> pathlib.Path:
    """Return the folder of the shipped model, for `DiffusionPipeline.from_pretrained`."""
    return pathlib.Path(__file__).resolve().parent / "model"

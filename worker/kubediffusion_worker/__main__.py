"""Starts a worker process: `kubediffusion-worker`, `python -m kubediffusion_worker`."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from kubediffusion_worker import model, runs

Load = Callable[[model.ModelConfig], runs.LoadedPipeline]


_QUIET = {
    # gRPC's core complains about whatever clients send.
    "GRPC_VERBOSITY": "NONE",
    # diffusers quotes prompts that are too long; nothing of a prompt may get into a log.
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""Variables that libraries read when they are loaded; what the environment says wins."""


def main(arguments: Sequence[str] | None = None, *, load: Load = model.load) -> NoReturn:
    """Be a worker until the end of the process.

    Args:
        arguments: The command line without the program; None: that of the process.
        load: Loads the model of the command line.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    code = _run(sys.argv[1:] if arguments is None else arguments, load)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the compute thread may be inside of torch, which must not be torn down
    # under it.
    os._exit(code)


def _run(arguments: Sequence[str], load: Load) -> int:
    # Late, because of the environment: all of these load gRPC.
    import asyncio
    import functools

    from kubediffusion_worker import arguments as command_line
    from kubediffusion_worker import logs, process

    settings = command_line.parse(arguments)
    if isinstance(settings, int):
        return settings
    if settings.threads is not None:
        # torch reads them when it is imported, which comes after the first calls.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(settings.threads)
    writer = logs.configure(settings.log_format, settings.log_level)
    load_it = functools.partial(load, settings.worker.model)
    try:
        return asyncio.run(process.serve(settings, load=load_it))
    finally:
        writer.finish(timeout=1.0)


if __name__ == "__main__":
    main()

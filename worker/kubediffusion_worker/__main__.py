"""Starts a worker process: `kubediffusion-worker`, `python -m kubediffusion_worker`."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from kubediffusion_worker import model, runs

Load = Callable[[model.ModelConfig], runs.LoadedPipeline]


def main(arguments: Sequence[str] | None = None, *, load: Load = model.load) -> NoReturn:
    """Be a worker until the end of the process.

    Args:
        arguments: The command line without the program; None: that of the process.
        load: Loads the model of the command line.
    """
    # gRPC's core reads it when it is loaded. Whatever clients send, it says nothing.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
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
    logs.configure(settings.log_format, settings.log_level)
    load_it = functools.partial(load, settings.worker.model)
    return asyncio.run(process.serve(settings, load=load_it))


if __name__ == "__main__":
    main()

"""The command's entry point: runs the command line and ends with its exit code."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from kubediffusion.cli import commands, exits


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with a documented exit code.

    Args:
        arguments: What follows the command's name; taken from ``sys.argv`` where absent.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and answer its exit code; errors are told on stderr."""
    # Without it grpc writes C++ log lines between ours when a worker goes away.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = None if arguments is None else list(arguments)
    try:
        code = commands.root.main(arguments, prog_name="kubediffusion", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return exits.ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:  # The process's outer loop: one clear line, no traceback.
        if os.environ.get("KUBEDIFFUSION_DEBUG"):
            raise
        click.echo("\n".join(exits.explain(error)), err=True)
        return exits.code_for(error)
    return code if isinstance(code, int) else exits.ExitCode.OK


if __name__ == "__main__":
    main()

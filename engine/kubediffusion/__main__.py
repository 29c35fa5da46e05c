"""Makes ``python -m kubediffusion`` the same as the command ``kubediffusion``."""

from kubediffusion.cli import __main__ as cli

if __name__ == "__main__":
    cli.main()

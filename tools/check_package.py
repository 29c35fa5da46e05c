"""Builds the source distribution and the wheel, and checks what users would install.

The wheel is built from the source distribution, as an installer without our repository
would do it. Its base install, without extras, must give the engine and the command line
and leave torch out.
"""

import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).parents[1]
UV = ROOT / ".venv" / "bin" / "uv"

# Package by component folder; the folder's name is dropped in the wheel.
PACKAGES = (
    ("proto", "kubediffusion_proto"),
    ("proto", "kubediffusion_wire"),
    ("engine", "kubediffusion"),
    ("worker", "kubediffusion_worker"),
    ("operator", "kubediffusion_operator"),
)

# What only works when it was packed: the types' marker and the demo's model.
ESSENTIAL = (
    *(f"{package}/py.typed" for _, package in PACKAGES),
    "kubediffusion_worker/demo/model/model_index.json",
)

BASE_INSTALL = """
import sys
import kubediffusion, kubediffusion_wire, kubediffusion.cli.__main__
kubediffusion.DiffusionEngine, kubediffusion.OmniDiffusionConfig
assert not {"torch", "diffusers", "kubernetes"} & set(sys.modules)
"""


def known_files(folder: str) -> set[str]:
    """Return the files below the folder that git tracks or would take, by their paths."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {path for path in listing.stdout.splitlines() if (ROOT / path).is_file()}


def wheel_problems(wheel: pathlib.Path) -> list[str]:
    """Compare the wheel's files with those of the packages in the repository."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted: set[str] = set()
    for folder, package in PACKAGES:
        wanted |= {path.split("/", 1)[1] for path in known_files(f"{folder}/{package}")}
    return [
        *(f"the wheel lacks {name}" for name in sorted(wanted - packed)),
        *(f"the wheel has the stray {name}" for name in sorted(packed - wanted)),
        *(f"the wheel lacks {name}" for name in ESSENTIAL if name not in packed),
    ]


def sdist_problems(sdist: pathlib.Path) -> list[str]:
    """Check that the source distribution can be built, tested and read."""
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {"LICENSE", "README.md", "pyproject.toml", "Makefile", "tools/environment.sh"}
    wanted |= {path for path in known_files("tests") if not path.endswith(".gitignore")}
    return [f"the source distribution lacks {name}" for name in sorted(wanted - packed)]


def base_install_problems(wheel: pathlib.Path, scratch: pathlib.Path) -> list[str]:
    """Install the wheel without extras into an empty environment, and start it."""
    environment = scratch / "base"
    python = environment / "bin" / "python"
    commands = (
        [UV, "venv", "--quiet", "--python", sys.executable, environment],
        [UV, "pip", "install", "--quiet", "--python", python, wheel],
        [python, "-c", BASE_INSTALL],
        [environment / "bin" / "kubediffusion", "--help"],
    )
    for command in commands:
        done = subprocess.run(command, cwd=scratch, check=False, capture_output=True, text=True)
        if done.returncode:
            return [f"the base install does not work: {command}\n{done.stderr}"]
    return []


def main() -> int:
    """Print what is wrong; the exit status is 1 when something is."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        build = [UV, "build", "--quiet", "--no-create-gitignore", "--out-dir", scratch]
        subprocess.run(build, cwd=ROOT, check=True)
        (wheel,) = scratch.glob("*.whl")
        (sdist,) = scratch.glob("*.tar.gz")
        problems = [
            *wheel_problems(wheel),
            *sdist_problems(sdist),
            *base_install_problems(wheel, scratch),
        ]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the README and docs/ as a newcomer would, one document after the other.

Each document gets an empty working folder and a home of its own, so that it has to start
what it uses. Blocks of one document build on each other; those that cannot run here have
`<!-- skip: next "reason" -->` in front of them.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator

import pytest
import sybil
from sybil.parsers import markdown

from kubediffusion_wire import registry

ROOT = pathlib.Path(__file__).parents[3]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "[a-z]*/README.md")
    for path in ROOT.glob(pattern)
)

# What is shown rather than run: output, drawings, files.
_NOT_CODE = {"json", "markdown", "protobuf", "text", "toml", "yaml"}

_COMMAND_SECONDS = 240.0


def _run_shell(example: sybil.Example) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_COMMAND_SECONDS,
    )
    where = f"{example.path}:{example.line}"
    assert done.returncode == 0, f"{where}: exit status {done.returncode}\n{done.stdout}"


SYBIL = sybil.Sybil(
    parsers=[
        markdown.PythonCodeBlockParser(),
        markdown.CodeBlockParser(language="bash", evaluator=_run_shell),
        markdown.SkipParser(),
    ]
)


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """An empty working folder, a fresh home, and the programs of this environment on PATH."""
    # Short: the path of a Unix socket has at most 107 bytes.
    home = pathlib.Path(tempfile.mkdtemp(prefix="kd-docs-"))
    folder = home / "work"
    runtime = home / "run"
    for new in (folder, runtime):
        new.mkdir(mode=0o700)
    for name in [name for name in os.environ if name.startswith("KUBEDIFFUSION_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PATH", str(pathlib.Path(sys.executable).parent), prepend=os.pathsep)
    # Threads of one model that wait for each other are many times slower on a busy machine.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(folder)
    yield folder
    _kill_workers()
    shutil.rmtree(home, ignore_errors=True)


def _kill_workers() -> None:
    """End the workers that a document has started and not stopped."""
    for entry in registry.read(registry.default_folder()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(entry.pid, signal.SIGKILL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_the_blocks_of_the_document_run(document: pathlib.Path, newcomer: pathlib.Path) -> None:
    for example in SYBIL.parse(ROOT / document).examples():
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_block_of_the_document_is_run_or_says_why_not(document: pathlib.Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    languages = re.findall(r"^ *(?:```|~~~)(.*)\n(?:.*\n)*? *(?:```|~~~)$", text, re.MULTILINE)
    skips = re.findall(r"<!-- *skip: *(.*?) *-->", text)
    assert set(languages) <= {"python", "bash", *_NOT_CODE}
    assert [skip for skip in skips if not re.fullmatch(r'next ".{10,}"', skip)] == []

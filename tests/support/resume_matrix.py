"""Which pipelines go on with which schedulers, and the table of it in the docs.

`python tests/support/resume_matrix.py docs/reference/resume-matrix.md` tries all and writes the
table. One process writes the checkpoints and another one, with other global random states, goes
on from them; see `resume_matrix_program`.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import solvers
import zoo

WITHOUT_STEPS = {"ltx_upsample"}

PREDICT_NOISE = (
    *("sd15", "sdxl", "sd_img2img", "sd_inpaint", "sd_controlnet", "sd_pag", "animatediff"),
    *("latent_consistency", "pixart_sigma", "dit", "ddpm"),
)
PREDICT_FLOW = (
    *("sd3", "sana", "wan", "wan22", "flux", "flux2", "flux2_klein_kv", "flux_kontext"),
    *("qwen_image", "lumina2", "ltx", "hunyuan_video", "z_image", "aura_flow"),
)

EXACT = "exact"
REFUSED = "refused"
"""By plain diffusers too."""

_MARKS = {EXACT: "=", REFUSED: "·"}
_PROGRAM = pathlib.Path(__file__).with_name("resume_matrix_program.py")

Combination = tuple[str, str]
"""A pipeline of the zoo and a scheduler."""


def rows() -> Mapping[str, tuple[str, ...]]:
    """Returns what each pipeline is tried with."""
    wanted: dict[str, tuple[str, ...]] = {
        name: (solvers.OWN,) for name in zoo.NAMES if name not in WITHOUT_STEPS
    }
    for name in PREDICT_NOISE:
        wanted[name] += tuple(solvers.DIFFUSION)
    for name in PREDICT_FLOW:
        wanted[name] += tuple(solvers.FLOW)
    wanted["cogvideox"] += tuple(solvers.COGVIDEOX)
    return wanted


def combinations() -> list[Combination]:
    """Returns all pairs that are tried, pipeline by pipeline."""
    return [(name, solver) for name, tried in rows().items() for solver in tried]


def try_all(wanted: Sequence[Combination]) -> dict[Combination, str]:
    """Returns what became of each pair: `EXACT`, `REFUSED`, or what went wrong."""
    with tempfile.TemporaryDirectory(prefix="kd-matrix-") as folder:
        written = _collected(_run("write", folder, wanted))
        accepted = [pair for pair in wanted if written.get(pair) == EXACT]
        return (
            dict.fromkeys(wanted, "the process ended")
            | written
            | _collected(_run("resume", folder, accepted))
        )


def _run(phase: str, folder: str, wanted: Sequence[Combination]) -> Iterator[dict[str, Any]]:
    # Threads of one model that wait for each other are many times slower on a busy machine.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(_PROGRAM), phase, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(json.dumps(list(wanted)))
        process.stdin.close()
        yield from map(json.loads, process.stdout)


def _collected(lines: Iterable[dict[str, Any]]) -> dict[Combination, str]:
    found = {}
    for line in lines:
        found[line["pipeline"], line["solver"]] = line["result"]
        if line["result"] not in _MARKS or sys.argv[0] == __file__:
            sys.stderr.write(f"{line['pipeline']} {line['solver']}: {line['result']}\n")
    return found


# ---------------------------------------------------------------- the table

_HEAD = """# Resume matrix

<!-- Written by `make test-matrix`. -->

What was tried: a run of 6 steps writes a checkpoint at each boundary; **another process**, whose
global random generators are somewhere else, goes on from the first, the middle and the last one.
`=` means that its outputs, as floats, have the same bits as those of a plain call of diffusers
that was never interrupted, from all three. `·` means that diffusers itself refuses the pair, with
or without us. The pipelines are tiny ones with random weights; they show what the code does, not
what a model can draw. "own" is the scheduler that a pipeline comes with.

"""


def table(found: Mapping[Combination, str]) -> str:
    """Returns the page."""
    exact = sum(result == EXACT for result in found.values())
    text = f"{exact} combinations of {len(rows())} pipelines go on with the same bits.\n"
    text += _section("Models that predict noise", PREDICT_NOISE, tuple(solvers.DIFFUSION), found)
    text += _section("Models that predict a velocity", PREDICT_FLOW, tuple(solvers.FLOW), found)
    others = [name for name in rows() if name not in PREDICT_NOISE + PREDICT_FLOW]
    return _HEAD + text + _section("Others", others, tuple(solvers.COGVIDEOX), found)


def _section(
    title: str,
    names: Sequence[str],
    tried: Sequence[str],
    found: Mapping[Combination, str],
) -> str:
    lines = [f"\n## {title}\n", _line(["pipeline", solvers.OWN, *tried])]
    lines.append("|---" * (len(tried) + 2) + "|")
    for name in names:
        cells = [_cell(name, solver, found) for solver in (solvers.OWN, *tried)]
        lines.append(_line([f"`{name}`", *cells]))
    return "\n".join(lines) + "\n"


def _cell(name: str, solver: str, found: Mapping[Combination, str]) -> str:
    if (name, solver) not in found:
        return ""
    return _MARKS.get(found[name, solver], "**differs**")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def read_table(text: str) -> dict[Combination, str]:
    """Returns what the page says."""
    meanings = {mark: result for result, mark in _MARKS.items()}
    found: dict[Combination, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| pipeline"):
            names = cells[1:]
        elif line.startswith("| `"):
            pairs = zip(names, cells[1:], strict=True)
            row = cells[0].strip("`")
            found |= {(row, name): meanings.get(cell, cell) for name, cell in pairs if cell}
    return found


def main(page: pathlib.Path) -> int:
    """Try all and write the page; returns whether something differed."""
    found = try_all(combinations())
    page.write_text(table(found), encoding="utf-8")
    return int(not set(found.values()) <= {EXACT, REFUSED})


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))

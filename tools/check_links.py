"""Checks that every relative link in the documentation leads somewhere.

Files must exist, and a fragment must be a heading of the file that it points into.
Addresses of other sites are left alone: the check needs no network.
"""

import pathlib
import re
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]

_FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def documents() -> list[pathlib.Path]:
    """Return the Markdown files that people read, sorted."""
    found = {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[a-z]*/README.md")}
    return sorted(found)


def anchors(text: str) -> set[str]:
    """Return the fragments that a file's headings answer to, by the usual rule.

    Lower case, without punctuation, blanks as hyphens; as on GitHub and in MkDocs.
    """
    headings = _HEADING.findall(_FENCE.sub("", text))
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


def broken_links(document: pathlib.Path) -> Iterator[str]:
    """Yield a line for each link of the document that leads nowhere."""
    text = document.read_text(encoding="utf-8")
    for target in _LINK.findall(_CODE.sub("", _FENCE.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists():
            yield f"{document.relative_to(ROOT)}: {target}: no such file"
        elif fragment and fragment not in anchors(file.read_text(encoding="utf-8")):
            yield f"{document.relative_to(ROOT)}: {target}: no such heading"


def main() -> int:
    """Print the broken links; the exit status is 1 when there are any."""
    broken = [line for document in documents() for line in broken_links(document)]
    for line in broken:
        print(line)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

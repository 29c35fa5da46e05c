"""Guards for mistakes in the repository that no other tool finds."""

import collections
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parents[3]

# Folders of one machine, whose names have no business in a repository.
_MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:home/\w|root/|work/|farm/|Users/\w)")

# Who names a registry's host decides for everybody where packages come from.
_REGISTRY = re.compile(
    r"(?:index-url|find-links|GOPROXY|registry)\s*[=:]\s*['\"]?https?://"
    r"|\"resolved\":\s*\"https?://"
    r"|^source = .*https?://"
    r"|(?:pypi\.org/simple|files\.pythonhosted\.org|registry\.npmjs\.org)",
    re.MULTILINE,
)

_PICKLES = re.compile(
    r"^\s*(?:import|from)\s+(?:pickle|cloudpickle|dill|marshal|shelve)\b|\btorch\.load\(",
    re.MULTILINE,
)

# These two name what they look for.
_GUARDS = ("pyproject.toml", "tests/unit/project/test_layout.py")


def _files(*patterns: str) -> list[str]:
    """Return the paths that git tracks or would take, below the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for path in listing.stdout.splitlines() if (ROOT / path).is_file()]


def _hits(pattern: re.Pattern[str], paths: list[str]) -> list[str]:
    hits = []
    for path in paths:
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a binary file
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            hits.append(f"{path}:{line}: {match.group()}")
    return hits


def test_no_package_hides_the_operator_module_of_the_standard_library() -> None:
    assert not _files("operator/__init__.py", "*/operator/__init__.py")


def test_no_folder_of_tests_is_a_package() -> None:
    assert not _files("tests/**/__init__.py", "tests/__init__.py")


def test_every_test_file_has_a_name_of_its_own() -> None:
    names = collections.Counter(pathlib.PurePath(path).name for path in _files("tests/*.py"))
    names.pop("conftest.py", None)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_test_file_lies_below_a_layer_and_a_component() -> None:
    tests = [path for path in _files("tests/*.py") if "/test_" in path]
    wanted = re.compile(
        r"tests/(unit|contract|e2e|bench)/[a-z_]+/(?:[a-z_]+/)*test_[a-z0-9_]+\.py"
    )
    assert [path for path in tests if not wanted.fullmatch(path)] == []


def test_nothing_that_can_run_code_while_reading_data_is_used() -> None:
    assert _hits(_PICKLES, [path for path in _files("*.py") if path not in _GUARDS]) == []


def test_no_path_of_one_machine_is_in_the_repository() -> None:
    assert _hits(_MACHINE_PATH, [path for path in _files() if path not in _GUARDS]) == []


def test_no_host_of_a_package_registry_is_in_the_repository() -> None:
    assert _hits(_REGISTRY, [path for path in _files() if path not in _GUARDS]) == []


def test_every_package_says_that_it_is_typed() -> None:
    packages = {path.rpartition("/")[0] for path in _files("*/*/__init__.py")}
    top = {package for package in packages if package.count("/") == 1 and "tests" not in package}
    assert {package for package in top if not (ROOT / package / "py.typed").is_file()} == set()


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[Unreleased\]$", changelog, re.MULTILINE)

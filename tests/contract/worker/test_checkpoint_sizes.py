"""The sizes that the docs name are those that are measured."""

import pathlib

import pytest

import checkpoint_sizes

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "reference" / "checkpoint-format.md"

# Larger ones take longer, and nothing else differs.
MEASURED = checkpoint_sizes.IMAGE_MODELS[:4]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", MEASURED, ids=[name for name, _, _ in MEASURED])
def test_page_says_how_large_checkpoints_are(model: checkpoint_sizes.Model) -> None:
    (line,) = checkpoint_sizes.rows([model])
    assert line in PAGE.read_text(encoding="utf-8").splitlines()


def test_page_lists_all_models() -> None:
    text = PAGE.read_text(encoding="utf-8")
    models = checkpoint_sizes.IMAGE_MODELS + checkpoint_sizes.VIDEO_MODELS
    assert [name for name, _, _ in models if f"| {name} |" not in text] == []

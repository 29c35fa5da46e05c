"""Types of the parts of the pipeline."""

from typing import Any

Part = Any  # diffusers shows type checkers placeholders without methods instead of its classes.
"""A model, tokenizer, scheduler or pipeline of diffusers or transformers."""

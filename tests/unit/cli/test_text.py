import math

import pytest

from kubediffusion.cli import text


def test_columns_are_as_wide_as_their_widest_cell_and_empty_cells_show():
    assert text.table(("A", "LONG"), [("wide one", ""), ("x", "1")]) == (
        "A          LONG\nwide one   -\nx          1"
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.04, "0.0 s"),
        (3.14, "3.1 s"),
        (42.0, "42 s"),
        (125.0, "2 min 5 s"),
        (3720.0, "1 h 2 min"),
        (93_600.0, "1 d 2 h"),
        (-1.0, "-"),
        (math.inf, "-"),
    ],
)
def test_durations_are_written_in_at_most_two_units(value, written):
    assert text.seconds(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(12, "12 B"), (3_200, "3.2 kB"), (5_000_000, "5.0 MB"), (7_100_000_000, "7.1 GB")],
)
def test_sizes_are_written_in_the_unit_that_suits_them(value, written):
    assert text.size(value) == written


@pytest.mark.parametrize(("number", "written"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps")])
def test_nouns_follow_their_number(number, written):
    assert text.count(number, "step") == written


@pytest.mark.parametrize(
    ("step", "total", "written"), [(0, 0, ""), (3, 0, "3"), (0, 20, "0/20"), (3, 20, "3/20")]
)
def test_steps_are_written_as_far_as_they_are_known(step, total, written):
    assert text.steps(step, total) == written

"""Rows, label settings and row conditions."""

from __future__ import annotations

import numpy as np
import pytest

from clinical_clip.errors import EvaluationError, ManifestError, OptionError
from clinical_clip.evaluate.table import Table, parse_conditions, parse_labels

ROWS = [
    ("c.png", {"modality": "ct", "organ": "chest", "year": 2019}),
    ("a.png", {"modality": "mr", "organ": " ", "year": 2020}),
    ("b.png", {"modality": "ct", "organ": "abdomen"}),
]


def test_rows_stand_in_the_order_of_their_names_and_values_are_text():
    table = Table.of(ROWS)
    assert table.names == ("a.png", "b.png", "c.png")
    assert table.column("year") == ("2020", "", "2019")


def test_a_combined_label_needs_all_its_parts():
    codes = Table.of(ROWS).codes("modality", "organ")
    assert codes.values == ("ct + abdomen", "ct + chest")
    assert codes.code_N.tolist() == [-1, 0, 1]


def test_a_missing_column_is_named_beside_those_there_are():
    with pytest.raises(ManifestError, match=r"no column 'region'.*modality, organ, year"):
        Table.of(ROWS).codes("region")


def test_an_image_listed_twice_is_refused():
    with pytest.raises(ManifestError, match=r"listed twice \(c.png\)"):
        Table.of([*ROWS, ROWS[0]])


def test_conditions_are_alternatives_within_a_column_and_joint_across():
    table = Table.of(ROWS)
    assert table.select(parse_conditions(["organ=chest", "organ=abdomen"], option="--rows")).names == (
        "b.png",
        "c.png",
    )
    both = parse_conditions(["modality=ct", "organ=chest"], option="--rows")
    assert table.select(both).names == ("c.png",)
    assert np.array_equal(table.mask({}), [True] * 3)
    assert table.select(parse_conditions(["organ="], option="--rows")).names == ("a.png",)


def test_no_rows_left_shows_what_the_column_holds():
    with pytest.raises(EvaluationError, match=r"no row is left.*modality: ct, mr"):
        Table.of(ROWS).select({"modality": frozenset({"us"})})
    with pytest.raises(EvaluationError, match="no readable image"):
        Table.of([]).select({})


@pytest.mark.parametrize("text", ["", " , ", "modality+", "+", "a,b++c"])
def test_labels_that_name_no_column_are_refused(text):
    with pytest.raises(OptionError, match="--labels"):
        parse_labels(text)


def test_labels_given_twice_count_once():
    assert parse_labels("a,b,a,a+b") == (("a",), ("b",), ("a", "b"))


@pytest.mark.parametrize("text", ["split", "=test", ""])
def test_conditions_that_cannot_be_read_are_refused(text):
    with pytest.raises(OptionError, match="COLUMN=VALUE"):
        parse_conditions([text], option="--rows")

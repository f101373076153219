from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinical_clip.errors import FilterError
from clinical_clip.index import Library
from clinical_clip.search import facets, matching_ids
from clinical_clip.search.filters import parse
from clinical_clip.types import FieldValue
from tests.index.make import create, fill, record, unit

IMAGES: list[dict[str, FieldValue]] = [
    {"modality": "CT", "organ": "Chest", "year": 2010, "rows": 512},
    {"modality": "ct", "organ": "left | right", "year": 2015, "rows": 256},
    {"modality": "MR", "organ": "Brain  Stem", "year": 2016, "study_date": "20160131"},
    {"modality": "US", "organ": 'a "quoted" word', "year": 2020.0, "study_date": "2016-02-01"},
    {"organ": "", "year": 2021, "spacing": 0.5},
    {"modality": "MR;DROP TABLE items", "organ": "1..3", "year": "2012"},
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder: Path = tmp_path_factory.mktemp("filters") / "lib"
    with create(folder) as library:
        fill(library, [record(n, **fields) for n, fields in enumerate(IMAGES)], unit(len(IMAGES)))
        yield library


def chosen(library: Library, *where: str) -> list[int]:
    """Numbers of the images that pass."""
    ids = matching_ids(library, where)
    return [n for n in range(len(IMAGES)) if record(n).image_id in ids]


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (["modality=CT"], [0, 1]),
        (["modality = Ct"], [0, 1]),
        (["MODALITY=ct"], [0, 1]),
        (["modality!=CT"], [2, 3, 4, 5]),
        (["modality=CT|MR"], [0, 1, 2]),
        (["modality!=CT|MR"], [3, 4, 5]),
        (["modality=PT"], []),
        (['modality=""'], [4]),
        (['modality!=""'], [0, 1, 2, 3, 5]),
        (['organ=""'], [4]),
        (['modality=""|US'], [3, 4]),
        (['organ="left | right"'], [1]),
        (["organ=brain stem"], [2]),
        (['organ="a \\"quoted\\" word"'], [3]),
        (['organ="1..3"'], [5]),
        (["year=2015"], [1]),
        (["year=2020"], [3]),
        (["year>=2015"], [1, 2, 3, 4]),
        (["year>2015"], [2, 3, 4]),
        (["year<=2012"], [0, 5]),
        (["year<2012"], [0]),
        (["year=2010..2015"], [0, 1, 5]),
        (["year=2016.."], [2, 3, 4]),
        (["year=..2010"], [0]),
        (["year!=2010..2016"], [3, 4]),
        (["year=2010|2020..2021"], [0, 3, 4]),
        (["rows<512"], [1]),
        (["spacing=0.50"], [4]),
        (["spacing<0.6"], [4]),
        (["study_date>=2016-02-01"], [3]),
        (["study_date=20160101..20160131"], [2]),
        (["modality=CT", "year>2010"], [1]),
        (["modality=CT", "modality=MR"], []),
        (["modality=MR;DROP TABLE items"], [5]),
        (["relative_path=2.png"], [2]),
        (["kind=picture", "frame=0"], [0, 1, 2, 3, 4, 5]),
        ([], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_what_passes(library: Library, where: list[str], wanted: list[int]) -> None:
    assert chosen(library, *where) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "modality",
        "=CT",
        "modality=",
        "modality=CT|",
        'organ="left',
        'organ=le"ft',
        "year>=abc",
        "year=..",
        "year=a..b",
    ],
)
def test_what_does_not_parse(library: Library, text: str) -> None:
    with pytest.raises(FilterError) as caught:
        chosen(library, text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "field", ["colour", "1=1; --", "year') OR 1=1 --", "items.path", "patient_id", "secret"]
)
def test_a_field_that_no_image_has(library: Library, field: str) -> None:
    with pytest.raises(FilterError, match="fields are: frame, kind, modality, organ"):
        chosen(library, f"{field} >= 3")


@given(value=st.text(max_size=12), operator=st.sampled_from(["=", "!=", "<", ">=", "", "|"]))
def test_no_value_breaks_it(value: str, operator: str) -> None:
    try:
        (condition,) = parse([f"modality{operator}{value}"])
    except FilterError:
        return
    assert condition.operator in ("=", "!=", "<", ">=", ">", "<=")


@settings(max_examples=40, deadline=None)
@given(value=st.text(min_size=1, max_size=12).filter(lambda text: text.strip(" \0")))
def test_a_quoted_value_finds_itself(value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    value = value.replace("\0", "")
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    with create(tmp_path_factory.mktemp("quoted") / "lib") as library:
        fill(library, [record(0, text=value), record(1, text="other one")], unit(2))
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return
        assert matching_ids(library, [f'text="{quoted}"']) == [record(0).image_id]


def test_columns_follow_the_index(tmp_path: Path) -> None:
    with create(tmp_path / "lib") as library, Library.open(tmp_path / "lib") as reader:
        wanted: set[str] = set()
        for turn in range(6):
            numbers = range(20 * turn, 20 * turn + 20)
            fill(library, [record(n, modality=("CT", "MR")[n % 2]) for n in numbers], unit(20, seed=turn))
            wanted |= {record(n).image_id for n in numbers if n % 2 == 0}
            doomed = {record(n).image_id for n in numbers if n % 10 == 0}
            library.remove(doomed)
            wanted -= doomed
            if turn == 3:
                library.rebuild()
            reader.refresh()
            for opened in (library, reader):
                assert set(matching_ids(opened, ["modality=CT"])) == wanted
                assert facets(opened, ["modality"])["modality"].values[1] == ("CT", len(wanted))


def test_facets(library: Library) -> None:
    found = facets(library, ["modality", "Year", "spacing"], where=["year>=2010"], limit=2)
    assert found["modality"].values == (("CT", 1), ("MR", 1))
    assert (found["modality"].distinct, found["modality"].blank) == (5, 1)
    assert found["Year"].field == "year"
    assert found["spacing"].values == ((0.5, 1),)
    assert found["spacing"].blank == 5
    with pytest.raises(FilterError):
        facets(library, ["colour"])


def test_removed_images_are_in_no_facet(tmp_path: Path) -> None:
    with create(tmp_path / "lib") as library:
        fill(library, [record(n, modality="CT") for n in range(9)], unit(9))
        assert facets(library, ["modality"])["modality"].values == (("CT", 9),)
        library.remove([record(4).image_id])
        assert facets(library, ["modality"])["modality"].values == (("CT", 8),)
        assert not np.any(library.snapshot().slots == 5)


@pytest.mark.parametrize("name", ['size "mm"', "a\\b", "it's", "x.y", "$[0]", "größe", "a b"])
def test_odd_field_names(tmp_path: Path, name: str) -> None:
    with create(tmp_path / "lib") as library:
        fill(library, [record(0, **{name: "yes"}), record(1, other="yes")], unit(2))
        (stored,) = set(library.get(record(0).image_id).fields)
        assert matching_ids(library, [f'"{stored}"=yes' if '"' in stored else f"{stored}=yes"]) == [
            record(0).image_id
        ]
        assert library.verify().ok

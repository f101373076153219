from __future__ import annotations

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinical_clip.data.table import MAX_CELL, read_header_row, read_rows
from clinical_clip.errors import ClinicalClipError, ManifestError, MissingDependency


def table(tmp_path, data, name="m.csv"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def rows(path):
    return list(read_rows(path, "image"))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_byte_order_marks_and_line_ends(tmp_path, mark, delimiter, end):
    text = f"image{delimiter}modality{end}a.png{delimiter}ct{end}b.png{delimiter}{end}"
    assert rows(table(tmp_path, mark + text.encode())) == [
        (2, {"image": "a.png", "modality": "ct"}),
        (3, {"image": "b.png"}),
    ]


def test_quotes_line_breaks_and_lines_that_are_empty(tmp_path):
    text = 'image,caption\n"a.png","two\nlines, ""quoted"""\n\nb.png,"=1+1"\n'
    assert rows(table(tmp_path, text)) == [
        (2, {"image": "a.png", "caption": 'two\nlines, "quoted"'}),
        (5, {"image": "b.png", "caption": "=1+1"}),
    ]


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"", "line 1", "empty"),
        (b"\n\n", "line 1", "empty"),
        (b"path,label\na,b\n", "line 1", "no column 'image'"),
        (b"image:label\na:b\n", "line 1", "no column 'image'"),
        (b"image,a,a\nx,1,2\n", "line 1", "two columns"),
        (b"im\0age\nx\n", "line 1", "NUL"),
        (b"image,a\nx,1\ny,\0\n", "line 3", "NUL"),
        (b"image,a\nx,1\ny\n", "line 3", "1 cells under 2 columns"),
        (b"image,a\nx,1,2\n", "line 2", "3 cells under 2 columns"),
        (b"image,a\nx,1\ny,\xff\xfe\n", "line", "not UTF-8"),
        (b'image,a\nx,"never closed\n', "line 2", "quotes"),
        (b"\xff\xfei\0m\0", "m.csv", "UTF-16"),
        (b"PK\x03\x04", "m.csv", "spreadsheet"),
        (b"PAR1", "m.csv", "Parquet"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, data, where, what):
    with pytest.raises(ManifestError) as caught:
        rows(table(tmp_path, data))
    assert what in caught.value.what
    assert where in caught.value.where
    assert "m.csv" in caught.value.where
    assert caught.value.hint


def test_a_header_without_the_column_lists_those_it_has(tmp_path):
    with pytest.raises(ManifestError, match="path, label"):
        read_header_row(table(tmp_path, "path,label\n"), "image")


@pytest.mark.parametrize("n", [MAX_CELL + 1, 10 << 20])
def test_an_endless_cell(tmp_path, n):
    with pytest.raises(ManifestError, match=r"too long.*line 3"):
        rows(table(tmp_path, "image,caption\na.png,b\nc.png," + "x" * n))


def test_a_long_caption_is_whole(tmp_path):
    [(_, cells)] = rows(table(tmp_path, "image,caption\na.png," + "x" * 500_000))
    assert len(cells["caption"]) == 500_000


def test_no_such_table(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read_header_row(tmp_path / "gone.csv", "image")


def test_parquet(tmp_path):
    path = tmp_path / "m.parquet"
    columns = {
        "image": ["a.png", "b.png"],
        "age": [4, None],
        "score": [0.5, float("nan")],
        "real": [True, False],
        "bytes": [b"x", b"y"],
        "list": [[1], [2]],
    }
    pq.write_table(pa.table(columns), path)
    assert rows(path) == [
        (1, {"image": "a.png", "age": "4", "score": "0.5", "real": "1"}),
        (2, {"image": "b.png", "real": "0"}),
    ]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_damaged_parquet(tmp_path, data):
    with pytest.raises(ManifestError, match="not a Parquet table"):
        rows(table(tmp_path, data, "m.parquet"))


def test_parquet_that_is_cut_in_the_middle_of_its_data(tmp_path):
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image": [f"{i}.png" for i in range(5000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[40:4000] = bytes(3960)
    path.write_bytes(data)
    with pytest.raises(ManifestError, match="damaged Parquet"):
        rows(path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependency, match="evaluate"):
        rows(table(tmp_path, b"PAR1", "m.parquet"))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"image\n", b"image,a\n", b"image;a\n"]))
def test_any_bytes_are_rows_or_an_error_that_is_ours(tmp_path, data, head):
    try:
        found = rows(table(tmp_path, head + data))
    except ClinicalClipError:
        return
    assert all(cell for _, cells in found for cell in cells.values())

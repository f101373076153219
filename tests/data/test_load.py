from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.data.makers import split, write_picture, write_volume
from tests.dicom.makers import MARK, make_dataset, write

from clinical_clip.data import load
from clinical_clip.data.load import load_pixels
from clinical_clip.data.nifti import read_slice
from clinical_clip.data.source import open_source
from clinical_clip.errors import CorruptImage, DecoderFailed, ImageRejected
from clinical_clip.types import ImageRecord, MediaKind


def test_each_kind_is_read_by_its_own_reader(tmp_path):
    picture = write_picture(tmp_path / "a.png")
    volume = write_volume(tmp_path / "b.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    write(tmp_path / "c", uid="1.2.9")
    records, _ = split(open_source(tmp_path))
    pixels = {record.name: load_pixels(record) for record in records}
    np.testing.assert_array_equal(pixels["a.png"], np.asarray(Image.open(picture)))
    np.testing.assert_array_equal(pixels["b.nii#3"], read_slice(volume, 3))
    assert pixels["c"].shape == (8, 6)
    assert {array.dtype for array in pixels.values()} == {np.dtype(np.uint8)}
    assert (pixels["c"][0, 0], pixels["c"][-1, -1]) == (0, 255)


@pytest.mark.parametrize("kind", list(MediaKind))
def test_a_file_that_went_away(tmp_path, kind):
    with pytest.raises(ImageRejected):
        load_pixels(ImageRecord(image_id="x#0", path=tmp_path / "gone", relative_path="gone", kind=kind))


@pytest.mark.parametrize("kind", list(MediaKind))
@pytest.mark.parametrize("n_bytes", [0, 10, 200, 700])
def test_a_file_that_is_cut_short(tmp_path, kind, n_bytes):
    makers = {
        MediaKind.DICOM: lambda: write(tmp_path / "x", PixelData=None),
        MediaKind.PICTURE: lambda: write_picture(tmp_path / "x.png", size=(40, 40)),
        MediaKind.NIFTI: lambda: write_volume(tmp_path / "x.nii", np.zeros((9, 9, 9), np.int16)),
    }
    path = makers[kind]()
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ImageRejected):
        load_pixels(ImageRecord(image_id="x#0", path=path, relative_path="x", kind=kind))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError(f"{MARK} in a message"), CorruptImage),
        (RecursionError(MARK), CorruptImage),
        (MemoryError(MARK), DecoderFailed),
        (PermissionError(13, "Permission denied", MARK), CorruptImage),
    ],
)
def test_an_unexpected_error_is_wrapped_and_its_text_dropped(tmp_path, monkeypatch, error, kind):
    def fail(*_given, **_named):
        raise error

    monkeypatch.setitem(load._READERS, MediaKind.PICTURE, fail)
    with pytest.raises(kind) as caught:
        load_pixels(ImageRecord(image_id="x#0", path=tmp_path, relative_path="x"))
    assert MARK not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "pixels", [np.zeros((0, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.float32)]
)
def test_what_is_no_image_does_not_come_out(tmp_path, monkeypatch, pixels):
    monkeypatch.setitem(load._READERS, MediaKind.PICTURE, lambda *_given, **_named: pixels)
    with pytest.raises(CorruptImage, match="no image"):
        load_pixels(ImageRecord(image_id="x#0", path=tmp_path, relative_path="x"))


def test_no_error_of_a_damaged_dicom_file_speaks_of_its_patient(tmp_path):
    path = write(tmp_path / "x", make_dataset(PixelData=bytes(10)))
    with pytest.raises(ImageRejected) as caught:
        load_pixels(ImageRecord(image_id="x#0", path=path, relative_path="x", kind=MediaKind.DICOM))
    assert MARK not in str(caught.value)

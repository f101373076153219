from __future__ import annotations

import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.makers import write_volume

from clinical_clip.data import nifti
from clinical_clip.data.nifti import read_slice, slice_count
from clinical_clip.data.nifti_layout import read_layout
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded, UnsupportedImage


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 300, shape).astype(np.int16)


def expected(path, index):
    """The same by nibabel's own reorientation and numpy's percentiles, in double precision."""
    volume = nib.as_closest_canonical(nib.load(path)).get_fdata()
    low, high = np.percentile(volume, (0.5, 99.5))
    shown = np.clip((volume - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    return shown[::-1, ::-1, index].T


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_right_is_on_the_left_and_anterior_on_top(tmp_path, suffix):
    volume = np.zeros((5, 6, 3), dtype=np.uint8)
    volume[4, 5, 2] = 200  # right, anterior, superior in RAS+
    path = write_volume(tmp_path / f"x{suffix}", volume)
    assert slice_count(path) == 3
    shown = read_slice(path, 2)
    assert shown.shape == (6, 5)
    assert np.argwhere(shown == 255).tolist() == [[0, 0]]
    assert not read_slice(path, 0).any()


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flip", [1, -1])
def test_every_orientation_gives_the_same_slices(tmp_path, axes, flip):
    volume = noise((5, 6, 7))
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, towards in enumerate(axes):
        affine[towards, axis] = flip
    path = write_volume(tmp_path / "x.nii", volume, affine)
    assert slice_count(path) == volume.shape[axes.index(2)]
    for index in (0, slice_count(path) - 1):
        np.testing.assert_array_equal(read_slice(path, index), expected(path, index))


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", "<f4", ">f4", "<f8"])
def test_types_and_byte_orders(tmp_path, dtype):
    volume = np.random.default_rng(1).integers(0, 100, (4, 5, 6)).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(volume.dtype)
    path = tmp_path / "x.nii"
    nib.Nifti1Image(volume, np.eye(4), header).to_filename(path)
    np.testing.assert_array_equal(read_slice(path, 3), expected(path, 3))


def test_slope_and_intercept_come_before_the_window(tmp_path):
    image = nib.Nifti1Image(noise((4, 5, 6)), np.eye(4))
    image.header.set_slope_inter(-2, 7)  # a negative slope inverts
    path = tmp_path / "x.nii"
    image.to_filename(path)
    np.testing.assert_array_equal(read_slice(path, 1), expected(path, 1))


def test_of_a_time_series_the_first_volume(tmp_path):
    volumes = noise((4, 5, 6, 3))
    whole = write_volume(tmp_path / "x.nii", volumes)
    first = write_volume(tmp_path / "y.nii", volumes[..., 0])
    np.testing.assert_array_equal(read_slice(whole, 2), read_slice(first, 2))


def test_nifti_2(tmp_path):
    volume = noise((4, 5, 6))
    path = tmp_path / "x.nii.gz"
    nib.Nifti2Image(volume, np.eye(4)).to_filename(path)
    np.testing.assert_array_equal(read_slice(path, 2), expected(path, 2))


def test_colour(tmp_path):
    volume = np.zeros((4, 5, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    volume["R"][3, 4, 1], volume["B"][3, 4, 1] = 10, 30
    path = tmp_path / "x.nii"
    nib.Nifti1Image(volume, np.eye(4)).to_filename(path)
    shown = read_slice(path, 1)
    assert shown.shape == (5, 4, 3)
    assert shown[0, 0].tolist() == [10, 0, 30]


def test_pixels_become_square(tmp_path):
    path = write_volume(tmp_path / "x.nii", noise((10, 4, 6)), np.diag([1, 3, 1, 1]))
    assert read_slice(path, 0).shape == (12, 10)


def test_a_flat_volume_and_infinities(tmp_path):
    assert not read_slice(write_volume(tmp_path / "x.nii", np.full((3, 3, 3), 7, np.int16)), 0).any()
    volume = noise((4, 4, 4)).astype(np.float32)
    volume[0, 0, 0], volume[1, 0, 0], volume[2, 0, 0] = np.nan, np.inf, -np.inf
    shown = read_slice(write_volume(tmp_path / "y.nii", volume), 0)
    assert shown[3, [3, 2, 1]].tolist() == [0, 255, 0]


def test_a_volume_is_read_once_for_all_its_slices(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "x.nii", noise((4, 5, 6)))
    calls = []
    slabs = nifti._slabs
    monkeypatch.setattr(nifti, "_slabs", lambda *given: calls.append(1) or slabs(*given))
    for index in range(6):
        read_slice(path, index)
    assert len(calls) == 1
    write_volume(path, noise((4, 5, 7)))
    read_slice(path, 6)
    assert len(calls) == 2


def test_the_volumes_kept_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti, "_CACHE_BYTES", 250)
    for i in range(5):
        read_slice(write_volume(tmp_path / f"{i}.nii", noise((4, 5, 6), i)), 0)
    assert sum(volume.nbytes for volume, _ in nifti._cache.values()) <= 250


@pytest.mark.parametrize("index", [-1, 6])
def test_no_such_slice(tmp_path, index):
    with pytest.raises(CorruptImage, match="no slice"):
        read_slice(write_volume(tmp_path / "x.nii", noise((4, 5, 6))), index)


def test_complex_voxels(tmp_path):
    path = write_volume(tmp_path / "x.nii", np.ones((3, 3, 3), np.complex64))
    with pytest.raises(UnsupportedImage):
        slice_count(path)


@pytest.mark.parametrize(
    ("limits", "what"),
    [({"memory_bytes": 400}, "bytes"), ({"max_frames": 5}, "slices"), ({"max_header_bytes": 100}, "before")],
)
def test_limits_hold_before_the_volume_is_read(tmp_path, limits, what):
    path = write_volume(tmp_path / "x.nii.gz", noise((4, 5, 6)))
    with pytest.raises(LimitExceeded, match=what):
        slice_count(path, limits=Limits(**limits))
    with pytest.raises(LimitExceeded, match=what):
        read_slice(path, 0, limits=Limits(**limits))


def test_a_slice_past_the_limit(tmp_path):
    with pytest.raises(LimitExceeded, match="in a slice"):
        read_slice(write_volume(tmp_path / "x.nii", noise((4, 5, 6))), 0, limits=Limits(max_pixels=10))


def test_of_a_gzip_bomb_no_more_is_inflated_than_was_declared(tmp_path):
    path = write_volume(tmp_path / "x.nii", noise((4, 5, 6)))
    with gzip.open(tmp_path / "x.nii.gz", "wb") as file:
        file.write(path.read_bytes())
        for _ in range(100):
            file.write(bytes(1 << 20))
    np.testing.assert_array_equal(read_slice(tmp_path / "x.nii.gz", 1), read_slice(path, 1))


def test_a_declared_gzip_bomb_is_refused_by_its_header(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((1000, 1000, 75))
    header.set_data_dtype(np.int16)
    path = tmp_path / "x.nii.gz"
    with gzip.open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(144):
            file.write(bytes(1 << 20))
    with pytest.raises(LimitExceeded, match="inflate to 150,000,000"):
        slice_count(path)


def test_a_volume_too_large_to_hold_as_stored_gives_the_same_slices(tmp_path):
    for volume in (noise((40, 50, 60)), noise((3, 1, 9)), noise((50, 70, 1))):
        path = write_volume(tmp_path / "x.nii.gz", volume)
        small = Limits(max_inflated_bytes=50 * 70 * 2)
        streamed = nifti._volume(path, small)[0]
        np.testing.assert_array_equal(streamed, nifti._volume(path, Limits())[0])


@pytest.mark.parametrize("step", [1, 2, 7, 19, 33])
def test_the_sample_for_the_window_is_even_across_slabs(tmp_path, monkeypatch, step):
    monkeypatch.setattr(nifti, "_SAMPLE", 120 // step)
    volume = noise((4, 5, 6))
    path = write_volume(tmp_path / "x.nii", volume)
    flat = volume.reshape(-1, order="F")
    low, high = np.percentile(flat[:: max(1, 120 // (120 // step))], (0.5, 99.5))
    layout = read_layout(path, Limits())
    assert nifti._window(nifti._slabs(path, layout), layout) == pytest.approx((low, 255 / (high - low)))


def test_truncated_voxels(tmp_path):
    path = write_volume(tmp_path / "x.nii", noise((4, 5, 6)))
    path.write_bytes(path.read_bytes()[:-1])
    assert slice_count(path) == 6
    with pytest.raises(CorruptImage, match="truncated"):
        read_slice(path, 0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_header_changed_anywhere_is_a_slice_or_a_rejection(tmp_path, changes):
    path = write_volume(tmp_path / "x.nii", noise((4, 5, 6)))
    data = bytearray(path.read_bytes())
    for at, value in changes:
        data[at] = value
    path.write_bytes(data)
    try:
        shown = read_slice(path, 0, limits=Limits(memory_bytes=1 << 20, max_pixels=1 << 20))
    except ImageRejected:
        return
    assert shown.size > 0

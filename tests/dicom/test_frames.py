from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from tests.dicom.makers import write

from clinical_clip.dicom.frames import FramePolicy, evenly_spaced, position_key, select_frames
from clinical_clip.dicom.read import read_header
from clinical_clip.errors import OptionError

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


@given(n=st.integers(0, 3000), k=st.integers(1, 60))
def test_evenly_spaced_is_bounded_ascending_and_even(n, k):
    chosen = evenly_spaced(n, k)
    assert len(chosen) == min(n, k)
    assert chosen == sorted(set(chosen))
    assert all(0 <= one < n for one in chosen)
    gaps = {b - a for a, b in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    if chosen:
        assert abs(chosen[0] - (n - 1 - chosen[-1])) <= 1


def test_place_along_the_normal_of_axial_coronal_and_sagittal_slices():
    assert position_key((9, 9, -4), AXIAL) == (AXIAL, -4)
    assert position_key((9, 5, 9), (1, 0, 0, 0, 0, -1))[1] == 5
    assert position_key((3, 9, 9), (0, 1, 0, 0, 0, -1))[1] == -3


def test_place_in_a_tilted_gantry_grows_with_the_distance_between_slices():
    tilted = (1, 0, 0, 0, 0.9397, -0.342)
    places = [position_key((0, 3 * i * 0.342, 3 * i * 0.9397), tilted)[1] for i in range(5)]
    assert places == pytest.approx([0, 3, 6, 9, 12], abs=0.01)


@pytest.mark.parametrize("orientation", [None, (0,) * 6, (1, 0, 0, 1, 0, 0)])
def test_no_place_without_a_geometry(orientation):
    assert position_key((1, 2, 3), orientation) is None
    assert position_key(None, AXIAL) is None


@pytest.mark.parametrize("bounds", [{"max_per_series": 0}, {"max_per_file": -1}])
def test_a_policy_takes_at_least_one(bounds):
    with pytest.raises(OptionError):
        FramePolicy(**bounds)


def test_a_cine_is_sampled_in_time(tmp_path):
    path = write(tmp_path / "x", NumberOfFrames=850)
    chosen = select_frames(read_header(path), path, FramePolicy(max_per_file=5))
    assert chosen == [85, 255, 425, 595, 765]


def test_an_enhanced_volume_is_sampled_in_space(tmp_path):
    order = [3, 0, 5, 1, 4, 2]
    per_frame = []
    for z in order:
        groups, position, plane = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, z]
        plane.ImageOrientationPatient = list(AXIAL)
        groups.PlanePositionSequence, groups.PlaneOrientationSequence = [position], [plane]
        per_frame.append(groups)
    path = write(
        tmp_path / "x", SOPClassUID=ENHANCED_CT, NumberOfFrames=6, PerFrameFunctionalGroupsSequence=per_frame
    )
    chosen = select_frames(read_header(path), path, FramePolicy(max_per_file=3))
    assert [order[frame] for frame in chosen] == [1, 3, 5]


def test_an_enhanced_volume_with_too_few_positions_is_sampled_in_order(tmp_path):
    path = write(
        tmp_path / "x",
        SOPClassUID=ENHANCED_CT,
        NumberOfFrames=6,
        PerFrameFunctionalGroupsSequence=[Dataset()],
    )
    assert select_frames(read_header(path), path, FramePolicy(max_per_file=3)) == [1, 3, 5]

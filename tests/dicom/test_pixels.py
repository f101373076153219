"""Rendering: pydicom's own pixels bit for bit, and cases computed by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import _expand_segmented_lut, apply_color_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from tests.dicom.build import dataset, grey, save, write
from tests.dicom.reference import frame_by_pydicom, real_files

from clinical_clip.dicom.grey import Window, WindowSource
from clinical_clip.dicom.limits import Limits
from clinical_clip.dicom.palette import expand_segments
from clinical_clip.dicom.pixels import read_frame, render_frame
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded, NoPixels, UnsupportedImage

RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)

ONLY_OURS = {
    "OBXXXX1A_expb.dcm": "pydicom does not swap the bytes of a big-endian palette",
    "OBXXXX1A_expb_2frame.dcm": "pydicom does not swap the bytes of a big-endian palette",
    "SC_rgb_jpeg.dcm": "pydicom's header reader stops at the offset table",
    "badVR.dcm": "pydicom cannot convert a number with a letter in it",
    "OT-PAL-8-face.dcm": "no file meta information",
}


@pytest.mark.parametrize("path", real_files(), ids=lambda path: path.name)
def test_every_real_file_looks_as_pydicom_has_it(path: Path) -> None:
    logging.disable(logging.CRITICAL)
    try:
        expected = frame_by_pydicom(path, 0)
    except Exception:
        expected = None
    finally:
        logging.disable(logging.NOTSET)
    if path.name in ONLY_OURS:
        assert render_frame(path).pixels.size > 0
    elif expected is None:
        with pytest.raises(ImageRejected):
            render_frame(path)
    else:
        rendered = render_frame(path, square=False)
        np.testing.assert_array_equal(rendered.pixels, expected[0])
        assert rendered.source == expected[1]


def test_a_big_endian_palette_gives_the_little_endian_picture() -> None:
    by_name = {path.name: path for path in real_files()}
    if "OBXXXX1A_expb.dcm" not in by_name:
        pytest.skip("pydicom-data is not installed: pip install pydicom-data")
    np.testing.assert_array_equal(
        read_frame(by_name["OBXXXX1A_expb.dcm"]), read_frame(by_name["OBXXXX1A.dcm"])
    )


def test_every_frame_of_a_multi_frame_file_is_its_own() -> None:
    multi = [
        path for path in real_files() if path.name in ("emri_small.dcm", "emri_small_jpeg_ls_lossless.dcm")
    ]
    assert multi
    for path in multi:
        whole = pydicom.dcmread(path).pixel_array
        for frame in (0, 1, 9, 3):
            expected = frame_by_pydicom(path, frame)
            assert expected is not None
            np.testing.assert_array_equal(render_frame(path, frame, square=False).pixels, expected[0])
        with pytest.raises(CorruptImage, match="no frame"):
            read_frame(path, len(whole))
        with pytest.raises(CorruptImage, match="no frame"):
            read_frame(path, -1)


# Windows, by PS3.3 C.11.2.1.2 and C.11.2.1.3


def test_linear_window_by_hand(tmp_path: Path) -> None:
    # c = 2048, w = 4096 over 12 bits: c - 0.5 - (w - 1) / 2 = 0, so y = x; 255 * x / 4095, rounded
    path = write(tmp_path, RAMP, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_array_equal(read_frame(path), np.floor(RAMP / 4095 * 255 + 0.5))


def test_linear_window_of_width_one_is_a_threshold(tmp_path: Path) -> None:
    path = write(
        tmp_path, grey([[98, 99, 100, 101]], "uint16"), BitsStored=12, WindowCenter=100, WindowWidth=1
    )
    assert read_frame(path).tolist() == [[0, 0, 255, 255]]  # x <= c - 0.5 is black


def test_linear_exact_window_by_hand(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        grey([[0, 50, 75, 100, 125, 150, 200]], "uint16"),
        BitsStored=12,
        WindowCenter=100,
        WindowWidth=100,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert read_frame(path).tolist() == [[0, 0, 64, 128, 191, 255, 255]]  # (x - 100) / 100 + 0.5


def test_sigmoid_by_hand(tmp_path: Path) -> None:
    values = grey([[0, 50, 100, 150, 4095]], "uint16")
    path = write(tmp_path, values, BitsStored=12, WindowCenter=100, WindowWidth=100, VOILUTFunction="SIGMOID")
    expected = [[255 / (1 + np.exp(-4 * (float(x) - 100) / 100)) for x in values[0]]]
    np.testing.assert_array_equal(read_frame(path), np.floor(np.array(expected) + 0.5))


def test_of_several_windows_the_first_usable_counts(tmp_path: Path) -> None:
    path = write(tmp_path, RAMP, BitsStored=12, WindowCenter=[100, 2048], WindowWidth=[50, 4096])
    assert render_frame(path).window == Window(center=100, width=50)
    path = write(tmp_path, RAMP, BitsStored=12, WindowCenter=[100, 2048], WindowWidth=[0, 4096])
    assert render_frame(path).window == Window(center=2048, width=4096)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"WindowCenter": 40, "WindowWidth": 0},
        {"WindowCenter": 40, "WindowWidth": -5},
        {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "CUBIC"},
        {"WindowCenter": 40},
    ],
)
def test_without_a_usable_window_the_fallback_is_marked(tmp_path: Path, attributes: dict[str, Any]) -> None:
    values = np.arange(1000, 2000, dtype=np.uint16).reshape(20, 50)
    rendered = render_frame(write(tmp_path, values, BitsStored=12, **attributes))
    assert rendered.source is WindowSource.PERCENTILES
    low, high = 1004, 1994  # the 5th and the 995th of 1,000 values
    expected = np.clip(np.floor((values.astype(float) - low) / (high - low) * 255 + 0.5), 0, 255)
    np.testing.assert_array_equal(rendered.pixels, expected)


def test_the_fallback_of_sparse_and_constant_frames(tmp_path: Path) -> None:
    sparse = np.zeros((100, 100), np.uint16)
    sparse[5, 5] = 700
    assert read_frame(write(tmp_path, sparse, BitsStored=12))[5, 5] == 255
    constant = np.full((4, 4), 900, np.uint16)
    assert not read_frame(write(tmp_path, constant, BitsStored=12)).any()


def test_eight_bits_without_a_window_are_shown_as_they_are(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rendered = render_frame(write(tmp_path, values))
    np.testing.assert_array_equal(rendered.pixels, values)
    assert rendered.source is WindowSource.FULL_RANGE


def lut(first: int, bits: int, entries: list[int]) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", [len(entries), first, bits])
    item.add_new(0x00283006, "US", entries)
    return item


def test_voi_lut_sequence_comes_before_the_window(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        grey([[0, 9, 10, 11, 12, 13, 4095]], "uint16"),
        BitsStored=12,
        WindowCenter=1,
        WindowWidth=2,
        VOILUTSequence=Sequence([lut(10, 12, [0, 4095, 819])]),
    )
    rendered = render_frame(path)
    assert rendered.pixels.tolist() == [[0, 0, 0, 255, 51, 51, 51]]
    assert rendered.source is WindowSource.LUT


def test_modality_lut_then_window(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        grey([[0, 1, 2, 3]]),
        ModalityLUTSequence=Sequence([lut(0, 16, [0, 65535, 1000, 30000])]),
        WindowCenter=32768,
        WindowWidth=65536,
    )
    assert read_frame(path).tolist() == [[0, 255, 4, 117]]


def test_rescale_then_window_in_hounsfield_units(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        grey([[-2000, 924, 1064, 1224, 1264]], "int16"),
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40,
        WindowWidth=400,
    )
    # HU -100, 40, 200, 240; (x - 39.5) / 399 + 0.5
    assert read_frame(path).tolist() == [[0, 38, 128, 230, 255]]


def test_a_negative_slope_turns_the_grey_scale(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = write(tmp_path, values, RescaleSlope=-1, RescaleIntercept=255, WindowCenter=128, WindowWidth=256)
    expected = frame_by_pydicom(path, 0)
    assert expected is not None
    np.testing.assert_array_equal(read_frame(path), expected[0])


@pytest.mark.parametrize(("slope", "intercept"), [("0", "0"), ("NaN", "0"), ("1", "inf"), ("x", "0")])
def test_a_rescale_that_is_no_number_is_refused(tmp_path: Path, slope: str, intercept: str) -> None:
    path = write(tmp_path, RAMP, BitsStored=12, WindowCenter=1, WindowWidth=2)
    raw = path.read_bytes()
    extra = b"\x28\x00\x52\x10DS\x04\x00" + intercept.encode().ljust(4)
    extra += b"\x28\x00\x53\x10DS\x04\x00" + slope.encode().ljust(4)
    at = raw.index(b"\xe0\x7f\x10\x00OW")
    path.write_bytes(raw[:at] + extra + raw[at:])
    with pytest.raises(CorruptImage, match="Rescale"):
        read_frame(path)


def test_monochrome1_is_inverted_after_the_window(tmp_path: Path) -> None:
    attributes = {"BitsStored": 12, "WindowCenter": 1000, "WindowWidth": 500}
    upright = read_frame(write(tmp_path, RAMP, **attributes))
    inverted = read_frame(write(tmp_path, RAMP, PhotometricInterpretation="MONOCHROME1", **attributes))
    np.testing.assert_array_equal(inverted, 255 - upright)


def test_padding_is_black_and_out_of_the_fallback(tmp_path: Path) -> None:
    values = np.arange(1000, 2000, dtype=np.uint16).reshape(20, 50)
    padded = np.vstack([np.full((20, 50), 4000, np.uint16), values])
    alone = read_frame(write(tmp_path, values, BitsStored=12))
    for photometric, expected in (("MONOCHROME2", alone), ("MONOCHROME1", 255 - alone)):
        shown = read_frame(
            write(
                tmp_path,
                padded,
                BitsStored=12,
                PhotometricInterpretation=photometric,
                PixelPaddingValue=4090,
                PixelPaddingRangeLimit=3990,
            )
        )
        np.testing.assert_array_equal(shown[20:], expected)
        assert not shown[:20].any()


# Stored values, by PS3.5 8


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("allocated", "stored"), [(8, 8), (8, 7), (16, 10), (16, 12), (16, 16), (32, 32), (32, 20)]
)
def test_depths_signs_and_unused_bits(tmp_path: Path, signed: bool, allocated: int, stored: int) -> None:
    low = -(1 << stored - 1) if signed else 0
    values = np.linspace(low, low + (1 << stored) - 1, 64).round().astype(np.int64).reshape(8, 8)
    # the bits above Bits Stored hold rubbish, as overlays once did
    rubbish = (values & ((1 << stored) - 1)) | (0x55 << stored)
    held = rubbish.astype(f"u{allocated // 8}").view(f"{'ui'[signed]}{allocated // 8}")
    if allocated == 32:
        held = values.astype(held.dtype)
    center, width = low + (1 << stored - 1), 1 << stored
    path = write(tmp_path, held, BitsStored=stored, WindowCenter=center, WindowWidth=width)
    expected = np.floor((values - low) / ((1 << stored) - 1) * 255 + 0.5)
    np.testing.assert_array_equal(read_frame(path), expected)


def test_a_high_bit_above_bits_stored_is_shifted_down(tmp_path: Path) -> None:
    path = write(tmp_path, RAMP << 4, BitsStored=12, HighBit=15, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_array_equal(read_frame(path), np.floor(RAMP / 4095 * 255 + 0.5))


def test_one_bit_frames_follow_without_padding(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (3, 3, 5), dtype=np.uint8)
    made = dataset(bits[0], BitsAllocated=1, BitsStored=1, NumberOfFrames=3, HighBit=0)
    made.PixelData = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    path = save(made, tmp_path)
    for frame in range(3):
        np.testing.assert_array_equal(read_frame(path, frame), bits[frame] * 255)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")])
def test_float_pixels(tmp_path: Path, keyword: str, dtype: str) -> None:
    values = np.array([[0.0, 0.25, 0.5, 1.0, np.nan, 3.0]], dtype)
    made = dataset(
        values, BitsStored=None, HighBit=None, PixelRepresentation=None, **{keyword: values.tobytes()}
    )
    shown = render_frame(save(made, tmp_path))
    assert shown.pixels.tolist() == [[0, 21, 43, 85, 0, 255]]
    assert shown.source is WindowSource.PERCENTILES


def test_float_padding_is_black(tmp_path: Path) -> None:
    values = np.array([[-1e9, 1.0, 2.0, 3.0]], "f4")
    made = dataset(
        values,
        BitsStored=None,
        HighBit=None,
        PixelRepresentation=None,
        PhotometricInterpretation="MONOCHROME1",
        FloatPixelData=values.tobytes(),
        FloatPixelPaddingValue=-1e9,
    )
    assert read_frame(save(made, tmp_path)).tolist() == [[0, 255, 127, 0]]


# Colour, by PS3.3 C.7.6.3.1.2


def test_planar_configurations_agree(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_frame(write(tmp_path, colour)), colour)
    planar = dataset(colour, PlanarConfiguration=1)
    planar.PixelData = colour.transpose(2, 0, 1).tobytes() + b"\0"
    np.testing.assert_array_equal(read_frame(save(planar, tmp_path)), colour)


def test_ybr_full_by_hand(tmp_path: Path) -> None:
    # PS3.3 C.7.6.3.1.2: R = Y + 1.402 (Cr - 128), B = Y + 1.772 (Cb - 128)
    ybr = np.array([[[128, 128, 128], [76, 85, 255], [255, 128, 128], [29, 255, 107]]], np.uint8)
    shown = read_frame(write(tmp_path, ybr, PhotometricInterpretation="YBR_FULL"))
    assert shown.tolist() == [[[128, 128, 128], [254, 0, 0], [255, 255, 255], [0, 0, 254]]]


def test_ybr_full_422_shares_its_chrominance(tmp_path: Path) -> None:
    made = dataset(np.zeros((1, 2, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")
    made.PixelData = bytes([128, 200, 128, 128])
    assert read_frame(save(made, tmp_path)).tolist() == [[[128] * 3, [200] * 3]]


@pytest.mark.parametrize(("dtype", "top"), [("uint16", 65535), ("uint32", 2**32 - 1)])
def test_deep_colour_is_scaled(tmp_path: Path, dtype: str, top: int) -> None:
    colour = np.array([[[0, top // 2, top], [top // 257, 1, top - 1]]], dtype)
    expected = np.floor(colour.astype(float) / top * 255 + 0.5)
    np.testing.assert_array_equal(read_frame(write(tmp_path, colour)), expected)


def palette(made: Dataset, first: int, bits: int, colours: list[list[int]]) -> None:
    for number in range(3):
        entries = [colour[number] for colour in colours]
        made.add_new(0x00281101 + number, "US", [len(entries), first, bits])
        kind = "<u2" if bits == 16 else "u1"
        made.add_new(0x00281201 + number, "OW", np.array(entries, kind).tobytes())


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 257), (16, 256)])
def test_palette_and_an_index_past_it(tmp_path: Path, bits: int, scale: int) -> None:
    made = dataset(grey([[0, 4, 5, 6, 7, 255]]), PhotometricInterpretation="PALETTE COLOR")
    colours = [[0, 10, 20], [30, 40, 50], [255, 254, 253], [1, 2, 3]]
    palette(made, 4, bits, [[value * scale for value in colour] for colour in colours])
    assert read_frame(save(made, tmp_path)).tolist() == [
        [colours[0], colours[0], colours[1], colours[2], colours[3], colours[3]]
    ]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_the_transfer_syntax_does_not_show(tmp_path: Path, syntax: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (32, 32), dtype=np.uint16)
    made = dataset(values, BitsStored=12, WindowCenter=2000, WindowWidth=900)
    expected = read_frame(save(made, tmp_path))
    if syntax == RLELossless:
        made.compress(RLELossless, generate_instance_uid=False)
    else:
        made.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(read_frame(save(made, tmp_path)), expected)


def test_big_endian_values_and_8_bits_in_words(tmp_path: Path) -> None:
    made = dataset(RAMP, syntax=ExplicitVRBigEndian, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    made.PixelData = RAMP.astype(">u2").tobytes()
    np.testing.assert_array_equal(read_frame(save(made, tmp_path)), np.floor(RAMP / 4095 * 255 + 0.5))
    frames = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    made = dataset(frames[0], syntax=ExplicitVRBigEndian, NumberOfFrames=2)
    made.PixelData = np.frombuffer(frames.tobytes(), "<u2").astype(">u2").tobytes()
    made["PixelData"].VR = "OW"
    path = save(made, tmp_path)
    for frame in range(2):
        np.testing.assert_array_equal(read_frame(path, frame), frames[frame])


@pytest.mark.parametrize(("bits", "fmt"), [(8, "<8B"), (16, "<8H")])
def test_segmented_palettes_as_pydicom_expands_them(bits: int, fmt: str) -> None:
    rng = np.random.default_rng(bits)
    for _ in range(50):
        words = [0, 3, *rng.integers(0, 200, 3).tolist()]
        for _ in range(int(rng.integers(1, 4))):
            words += [1, int(rng.integers(1, 30)), int(rng.integers(0, 250))]
            words += [0, 2, *rng.integers(0, 250, 2).tolist()]
        offset = [0, 0] if bits == 16 else [0, 0, 0, 0]
        words += [2, int(rng.integers(1, 3)), *offset]
        assert expand_segments(words, bits).tolist() == _expand_segmented_lut(tuple(words), fmt)


def test_segmented_palette_in_a_file(tmp_path: Path) -> None:
    made = dataset(np.arange(16, dtype=np.uint8).reshape(4, 4), PhotometricInterpretation="PALETTE COLOR")
    for number in range(3):
        made.add_new(0x00281101 + number, "US", [16, 0, 16])
        words = np.array([0, 1, 0, 1, 15, 65535 - number * 9000], "<u2")
        made.add_new(0x00281221 + number, "OW", words.tobytes())
    path = save(made, tmp_path)
    expected = apply_color_lut(pydicom.dcmread(path).pixel_array, pydicom.dcmread(path)) >> 8
    np.testing.assert_array_equal(read_frame(path), expected)


# Shape, multi-frame, limits


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"PixelSpacing": [2.0, 1.0]}, (20, 20)),
        ({"ImagerPixelSpacing": [0.5, 1.5]}, (10, 60)),
        ({"PixelAspectRatio": [1, 2]}, (10, 40)),
        ({"PixelSpacing": [0.5, 0.502]}, (10, 20)),
        ({"PixelSpacing": [1.0, 1000.0]}, (10, 20)),
        ({"PixelSpacing": [0.0, 1.0]}, (10, 20)),
    ],
)
def test_pixels_become_square(tmp_path: Path, attributes: dict[str, Any], shape: tuple[int, int]) -> None:
    path = write(tmp_path, np.full((10, 20), 77, np.uint8), **attributes)
    assert read_frame(path).shape == shape
    assert (read_frame(path) == 77).all()
    assert render_frame(path, square=False).pixels.shape == (10, 20)


def multi_frame(frames: NDArray[Any], **attributes: Any) -> Dataset:
    made = dataset(frames[0], NumberOfFrames=len(frames), **attributes)
    made.PixelData = frames.tobytes()
    return made


def test_functional_groups_window_each_frame(tmp_path: Path) -> None:
    frames = np.stack([RAMP, RAMP, RAMP])
    made = multi_frame(frames, BitsStored=12, WindowCenter=1, WindowWidth=1)
    groups = []
    for width in (100, 4096, 50):
        voi, value, group = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = 2048, width
        value.RescaleSlope, value.RescaleIntercept = 1, 0
        group.FrameVOILUTSequence, group.PixelValueTransformationSequence = Sequence([voi]), Sequence([value])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    path = save(made, tmp_path)
    assert [render_frame(path, n).window.width for n in range(3)] == [100, 4096, 50]
    np.testing.assert_array_equal(read_frame(path, 1), np.floor(RAMP / 4095 * 255 + 0.5))


@pytest.mark.parametrize("count", [1, 30, 850])
def test_only_the_frame_asked_for_is_read(tmp_path: Path, count: int) -> None:
    frames = (np.arange(count)[:, None, None] % 256 * np.ones((1, 6, 6))).astype(np.uint8)
    path = save(multi_frame(frames), tmp_path)
    for frame in {0, count // 2, count - 1}:
        assert (read_frame(path, frame) == frame % 256).all()


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    frames = np.zeros((2, 4, 4), np.uint8)
    path = save(multi_frame(frames), tmp_path)
    assert not read_frame(path, 1).any()
    save(multi_frame(frames + 9), tmp_path)
    path.touch()
    assert (read_frame(path, 1) == 9).all()


def test_caps_come_first(tmp_path: Path) -> None:
    path = write(tmp_path, np.zeros((20, 20), np.uint8))
    for limits in (Limits(max_pixels=399), Limits(max_file_bytes=100)):
        with pytest.raises(LimitExceeded):
            read_frame(path, limits=limits)
    path = save(multi_frame(np.zeros((3, 4, 4), np.uint8)), tmp_path)
    with pytest.raises(LimitExceeded, match="frames"):
        read_frame(path, limits=Limits(max_frames=2))


def test_what_is_no_image_is_said_so(tmp_path: Path) -> None:
    made = dataset(np.zeros((2, 2), np.uint8))
    del made.PixelData
    with pytest.raises(NoPixels):
        read_frame(save(made, tmp_path))
    with pytest.raises(UnsupportedImage):
        read_frame(write(tmp_path, np.zeros((2, 2), np.uint8), PhotometricInterpretation="HSV"))
    with pytest.raises(CorruptImage):
        read_frame(tmp_path / "missing.dcm")

"""Ordinary pictures: the right pixels of every kind, and refusals by type."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clinical_clip.data.picture import page_count, read_picture
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import CorruptImage, ImageRejected, LimitExceeded, UnsupportedImage

COLOUR = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (37, 29))
GREY = COLOUR[..., 1].copy()


def by_pillow(path: Path, mode: str = "") -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode) if mode else image)


def save(folder: Path, array: NDArray[np.generic] | Image.Image, name: str, **options: object) -> Path:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.bmp", "x.webp"])
def test_lossless_pictures_come_back_exactly(tmp_path: Path, name: str) -> None:
    options = {"lossless": True, "exact": True} if name == "x.webp" else {}
    np.testing.assert_array_equal(read_picture(save(tmp_path, COLOUR, name, **options)), COLOUR)
    if name != "x.webp":
        np.testing.assert_array_equal(read_picture(save(tmp_path, GREY, name)), GREY)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpeg_is_what_the_reference_decoder_gives(tmp_path: Path, options: dict[str, int]) -> None:
    for array in (COLOUR, GREY):
        path = save(tmp_path, array, "x.jpg", **options)
        np.testing.assert_array_equal(read_picture(path), by_pillow(path))


def test_the_name_does_not_decide(tmp_path: Path) -> None:
    path = save(tmp_path, COLOUR, "x.png").rename(tmp_path / "x.jpg")
    np.testing.assert_array_equal(read_picture(path), COLOUR)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, COLOUR, name, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_picture(path), expected)
    assert read_picture(path).flags.c_contiguous


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(COLOUR).convert("CMYK"), "x.jpg", quality=95)
    shown = read_picture(path)
    np.testing.assert_array_equal(shown, by_pillow(path, "RGB"))
    assert np.abs(shown.astype(int) - COLOUR).mean() < 12  # not inverted


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_greys_are_scaled_over_the_full_range(tmp_path: Path, name: str) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    assert read_picture(save(tmp_path, deep, name)).tolist() == [[0, 0, 1, 1, 128, 255]]


def test_16_bit_colour_png(tmp_path: Path) -> None:
    deep = np.arange(7 * 9 * 3, dtype=np.uint16).reshape(7, 9, 3) * 300
    cv2.imwrite(str(tmp_path / "x.png"), deep[..., ::-1])
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png"), np.floor(deep / 257 + 0.5))


def test_alpha_lies_over_black(tmp_path: Path) -> None:
    rgba = np.dstack([np.full((1, 3, 3), 200, np.uint8), np.array([[0, 128, 255]], np.uint8)])
    expected = [[[0] * 3, [100] * 3, [200] * 3]]  # round(200 * 128 / 255) = 100
    assert read_picture(save(tmp_path, rgba, "x.png")).tolist() == expected
    assert read_picture(save(tmp_path, rgba, "x.tif")).tolist() == expected
    bands = [Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])]
    grey_alpha = Image.merge("LA", bands)
    shown = read_picture(save(tmp_path, grey_alpha, "x.png"))
    assert (shown if shown.ndim == 2 else shown[..., 0]).tolist() == [[0, 100, 200]]


@pytest.mark.parametrize("mode", ["1", "P"])
def test_bilevel_and_palette(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOUR).convert(mode) if mode == "1" else Image.fromarray(COLOUR).quantize(9)
    for name in ("x.png", "x.tif", "x.gif"):
        shown = read_picture(save(tmp_path, image, name))
        expected = by_pillow(tmp_path / name, "RGB")
        np.testing.assert_array_equal(shown if shown.ndim == 3 else np.dstack([shown] * 3), expected)


def test_transparent_palette_png(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(COLOUR).quantize(4), "x.png", transparency=1)
    rgba = by_pillow(path, "RGBA")
    np.testing.assert_array_equal(read_picture(path), rgba[..., :3] * (rgba[..., 3:] > 0))


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp"])
def test_of_an_animation_the_first_frame(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name == "x.webp" else {}
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (50, 200))
    path = save(tmp_path, first, name, save_all=True, append_images=[second], duration=100, **options)
    assert (read_picture(path) == 50).all()
    assert page_count(path) == 1
    with pytest.raises(CorruptImage, match="no page 1"):
        read_picture(path, 1)


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((4, 5), value, np.uint8)) for value in (1, 2, 3)]
    path = save(tmp_path, pages[0], "x.tif", save_all=True, append_images=pages[1:])
    assert page_count(path) == 3
    assert [int(read_picture(path, page).mean()) for page in range(3)] == [1, 2, 3]
    with pytest.raises(CorruptImage):
        read_picture(path, 3)
    with pytest.raises(LimitExceeded, match="pages"):
        page_count(path, limits=Limits(max_frames=2))


def test_floats_are_shown_by_their_own_range(tmp_path: Path) -> None:
    path = save(tmp_path, np.array([[-1.0, 0.0, 3.0]], np.float32), "x.tif")
    assert read_picture(path).tolist() == [[0, 64, 255]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"\xef\xbb\xbf  <!DOCTYPE html>", "SVG or XML"),
        (b"%PDF-1.7", "PDF"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04", "ZIP"),
        (b"%!PS-Adobe", "PostScript"),
        (b"II*\0" + bytes(124) + b"DICM", "DICOM"),
        (b"hello", "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for reader in (read_picture, page_count):
        with pytest.raises(UnsupportedImage, match=words):
            reader(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_a_picture_cut_anywhere_is_refused_or_whole(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, kind)
    data = buffer.getvalue()
    path = tmp_path / "x"
    path.write_bytes(data)
    whole = read_picture(path)
    for size in range(0, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:size])
        try:
            shown = read_picture(path)
        except ImageRejected:
            continue
        np.testing.assert_array_equal(shown, whole)  # only bytes behind the image were missing


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_png_with_too_few_rows_or_a_wrong_crc_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    whole = png(4, 4, b"\0abcd" * 4)
    path.write_bytes(whole)
    assert read_picture(path).shape == (4, 4)
    flipped = bytearray(whole)
    flipped[45] ^= 1
    for damaged in (png(4, 4, b"\0abcd" * 2), bytes(flipped), whole[:-12]):
        path.write_bytes(damaged)
        with pytest.raises(CorruptImage):
            read_picture(path)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(60_000, 60_000, b""))
    with pytest.raises(LimitExceeded, match="60000 x 60000"):
        read_picture(path)
    path.write_bytes(png(100, 100, b"\0" + bytes(100)))
    with pytest.raises(LimitExceeded, match="bytes"):
        read_picture(path, limits=Limits(max_inflated_bytes=60))


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path in (tmp_path / "missing", tmp_path / "empty", tmp_path):
        with pytest.raises(CorruptImage):
            read_picture(path)

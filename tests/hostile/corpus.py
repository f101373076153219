"""Good files to damage: small real DICOM files of every transfer syntax, and pictures made here."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from tests.dicom.reference import real_files

_MOST_BYTES = 60_000


def corpus() -> list[tuple[str, bytes]]:
    """Name and bytes of each file; always in the same order."""
    small = [(path.name, path.read_bytes()) for path in real_files() if path.stat().st_size <= _MOST_BYTES]
    dicom = [(name, data) for name, data in small if b"\xe0\x7f\x10\x00" in data or b"DICM" in data[:132]]
    return dicom + pictures()


def pictures() -> list[tuple[str, bytes]]:
    """One of each kind of picture that is read."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    rgb, grey = Image.fromarray(colour), Image.fromarray(colour[..., 0])
    deep = Image.fromarray(rng.integers(0, 65536, (24, 31), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    made: list[tuple[str, bytes]] = []

    def add(name: str, image: Image.Image, kind: str, **options: object) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        made.append((name, buffer.getvalue()))

    add("rgb.png", rgb, "PNG", exif=exif)
    add("grey.png", grey, "PNG")
    add("deep.png", deep, "PNG")
    add("palette.png", rgb.quantize(16), "PNG", transparency=3)
    add("alpha.png", rgb.convert("RGBA"), "PNG")
    add("animated.png", rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)])
    add("rgb.jpg", rgb, "JPEG", exif=exif)
    add("progressive.jpg", rgb, "JPEG", progressive=True)
    add("grey.jpg", grey, "JPEG")
    add("cmyk.jpg", rgb.convert("CMYK"), "JPEG")
    add("lzw.tif", rgb, "TIFF", compression="tiff_lzw")
    add("deep.tif", deep, "TIFF")
    add("fax.tif", grey.convert("1"), "TIFF", compression="group4")
    add("pages.tif", rgb, "TIFF", save_all=True, append_images=[rgb, rgb], compression="tiff_adobe_deflate")
    add("jpeg.tif", rgb, "TIFF", compression="jpeg")
    add("float.tif", grey.convert("F"), "TIFF")
    add("lossy.webp", rgb, "WEBP")
    add("lossless.webp", rgb.convert("RGBA"), "WEBP", lossless=True)
    add("animated.gif", rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])
    add("rgb.bmp", rgb, "BMP")
    return made

"""The hostile table: one bad file a row, with what it gets. ``docs/hostile.md`` is written from it.

python -m tests.hostile.rows > docs/hostile.md
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from tests.dicom.build import element, image_elements, part10, us

from clinical_clip.errors import (
    CorruptImage,
    ImageRejected,
    LimitExceeded,
    NoPixels,
    UnsupportedImage,
)

__all__ = ["ROWS", "Row", "table"]

PIXELS = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
PIXEL_ELEMENT = element(0x7FE00010, "OW", PIXELS.tobytes())
GOOD = image_elements() + PIXEL_ELEMENT


@dataclass(frozen=True, kw_only=True)
class Row:
    """A hostile file: how it is made, and the rejection or the pixels that it gets."""

    name: str
    make: Callable[[], bytes]
    error: type[ImageRejected] | None = None
    words: str = ""
    pixels: NDArray[np.uint8] | None = None
    suffix: str = ".dcm"

    @cached_property
    def content(self) -> bytes:
        """The file."""
        return self.make()

    @property
    def gets(self) -> str:
        """For the table."""
        if self.error is None:
            return "exact pixels"
        return f"`{self.error.__name__}`: {self.words}"


def exact(
    name: str, make: Callable[[], bytes], pixels: NDArray[np.uint8] = PIXELS, suffix: str = ".dcm"
) -> Row:
    return Row(name=name, make=make, pixels=pixels, suffix=suffix)


def refused(
    name: str, make: Callable[[], bytes], error: type[ImageRejected], words: str, suffix: str = ".dcm"
) -> Row:
    return Row(name=name, make=make, error=error, words=words, suffix=suffix)


def replaced(**elements: bytes) -> bytes:
    return part10(image_elements(**elements) + PIXEL_ELEMENT)


def nested(depth: int, *, defined: bool) -> bytes:
    """A private sequence within a sequence within ... before the pixels."""
    if not defined:
        begin = struct.pack("<HH2sHL", 0x0009, 0x1010, b"SQ", 0, 0xFFFFFFFF)
        begin += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        return part10(begin * depth + end * depth + GOOD)
    sizes = 20 * np.arange(depth)  # an element's head is 12 bytes, an item's is 8
    parts = [
        struct.pack("<HH2sHL", 0x0009, 0x1010, b"SQ", 0, size + 8) + struct.pack("<HHL", 0xFFFE, 0xE000, size)
        for size in sizes[::-1].tolist()
    ]
    return part10(b"".join(parts) + GOOD)


def nested_implicit(depth: int) -> bytes:
    begin = struct.pack("<HHL", 0x0040, 0xA730, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    meta = element(0x00020010, "UI", ImplicitVRLittleEndian.encode())
    return bytes(128) + b"DICM" + meta + begin * depth + end * depth


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    whole = part10(b"", syntax=DeflatedExplicitVRLittleEndian)
    head, identity = whole[: whole.index(b"\x08\x00\x16\x00")], whole[whole.index(b"\x08\x00\x16\x00") :]
    return head + packer.compress(identity + body) + packer.flush()


def deflate_bomb(mebibytes: int = 853) -> bytes:
    """A deflated data set whose one private element inflates to 853 MiB of zeros."""
    whole = part10(b"", syntax=DeflatedExplicitVRLittleEndian)
    head = whole[: whole.index(b"\x08\x00\x16\x00")]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    start = struct.pack("<HH2sHL", 0x0009, 0x1010, b"OB", 0, mebibytes << 20)
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + first + block * mebibytes + packer.flush()


def encapsulated(fragments: bytes, syntax: str = JPEGBaseline8Bit, **elements: bytes) -> bytes:
    head = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    return part10(image_elements(**elements) + head + fragments, syntax=syntax)


def item(data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(data) if length is None else length) + data


END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def jpeg(rows: int, columns: int) -> bytes:
    """A real 4 x 4 JPEG that declares another size."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", rows, columns)
    return bytes(data)


def j2k(rows: int, columns: int) -> bytes:
    size = struct.pack(">HHLLLLLLLLH", 41, 0, columns, rows, 0, 0, columns, rows, 0, 0, 1) + b"\x07\x01\x01"
    return b"\xff\x4f\xff\x51" + size + bytes(200)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, packed: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def small_png(extra: bytes = b"") -> bytes:
    return png(4, 4, zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS)), extra)


def zeros(mebibytes: int) -> bytes:
    """A zlib stream of that many mebibytes of zeros."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(mebibytes)) + packer.flush()


def picture(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.dcm", data)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("PNG", exif=exif)


def tiff_loop() -> bytes:
    """A TIFF whose directory points to itself as the next."""
    data = bytearray(picture("TIFF"))
    (at,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<L", data, at + 2 + 12 * count, at)
    return bytes(data)


def gif_screen(width: int, height: int) -> bytes:
    data = bytearray(picture("GIF"))
    struct.pack_into("<HH", data, 6, width, height)
    return bytes(data)


def bmp_size(width: int, height: int) -> bytes:
    data = bytearray(picture("BMP"))
    struct.pack_into("<ll", data, 18, width, height)
    return bytes(data)


LINEAR_LUT = element(
    0x00283010,
    "SQ",
    item(us(0x00283002, 0, 0, 16) + element(0x00283006, "US", b"\0\0")),
)
PALETTE = b"".join(us(0x00281101 + n, 256, 0, 16) for n in range(3)) + b"".join(
    element(0x00281201 + n, "OW", b"\0\0") for n in range(3)
)


def ds(tag: int, text: bytes) -> bytes:
    return element(tag, "DS", text + b" " * (len(text) % 2))


def with_extra(extra: bytes) -> bytes:
    return part10(image_elements() + extra + PIXEL_ELEMENT)


ROWS = [
    # Not DICOM at all, or hardly
    refused("empty file", lambda: b"", CorruptImage, "empty file"),
    refused(
        "4 kB of random bytes", lambda: random.Random(1).randbytes(4096), CorruptImage, "not a DICOM file"
    ),
    refused("preamble and nothing else", lambda: bytes(128) + b"DICM", CorruptImage, "no data set"),
    exact("no preamble, with file meta information", lambda: part10(GOOD)[132:]),
    exact("executable preamble (MZ)", lambda: part10(GOOD, preamble=b"MZ\x90\0".ljust(128, b"\x90"))),
    exact("executable preamble (ELF)", lambda: part10(GOOD, preamble=b"\x7fELF\2\1\1".ljust(128, b"\1"))),
    exact("preamble that is a TIFF", lambda: part10(GOOD, preamble=b"II*\0\x08\0\0\0".ljust(128, b"\0"))),
    exact("UID ../../x", lambda: part10(GOOD, uid="../../x")),
    exact("UID of 65 characters", lambda: part10(GOOD, uid="1." * 32 + "1")),
    exact("empty UID", lambda: part10(GOOD, uid="")),
    refused("a report (no pixels)", lambda: part10(image_elements()), NoPixels, "no pixel data"),
    # Sizes that lie
    refused(
        "65,535 x 65,535 declared, 128 bytes there",
        lambda: part10(image_elements(65535, 65535) + element(0x7FE00010, "OW", bytes(128))),
        LimitExceeded,
        "65535 x 65535 pixels",
    ),
    refused(
        "5,000 x 5,000 declared, 128 bytes there",
        lambda: part10(image_elements(5000, 5000) + element(0x7FE00010, "OW", bytes(128))),
        CorruptImage,
        "fewer pixel data",
    ),
    refused(
        "pixel data of 4 GiB declared, 16 bytes there",
        lambda: part10(
            image_elements() + element(0x7FE00010, "OW", b"", length=0xFFFFFFFE) + PIXELS.tobytes()[:15]
        ),
        CorruptImage,
        "fewer pixel data",
    ),
    refused(
        "10^9 frames declared",
        lambda: replaced(NumberOfFrames=element(0x00280008, "IS", b"1000000000")),
        LimitExceeded,
        "1,000,000,000 frames",
    ),
    refused("no rows", lambda: replaced(Rows=b""), CorruptImage, "Rows"),
    refused("0 rows", lambda: replaced(Rows=us(0x00280010, 0)), CorruptImage, "Rows"),
    refused(
        "12 bits allocated", lambda: replaced(BitsAllocated=us(0x00280100, 12)), UnsupportedImage, "12 Bits"
    ),
    refused("0 bits stored", lambda: replaced(BitsStored=us(0x00280101, 0)), CorruptImage, "Bits Stored"),
    refused(
        "9 bits stored of 8", lambda: replaced(BitsStored=us(0x00280101, 9)), CorruptImage, "Bits Stored"
    ),
    refused(
        "4 samples a pixel", lambda: replaced(SamplesPerPixel=us(0x00280002, 4)), CorruptImage, "Samples"
    ),
    # Elements that lie
    exact("wrong VR: Rows as text", lambda: replaced(Rows=element(0x00280010, "SH", b"4 "))),
    refused(
        "wrong VR: Rows as a sequence",
        lambda: replaced(Rows=element(0x00280010, "SQ", b"\4\0")),
        CorruptImage,
        "Rows",
    ),
    exact("wrong VR: window as bytes", lambda: with_extra(element(0x00281050, "OB", b"\xff\xfe\xff\xfe"))),
    refused(
        "an element longer than the file",
        lambda: with_extra(element(0x00091010, "OB", b"", length=0x7FFFFFFF)),
        CorruptImage,
        "ends within its header",
    ),
    refused("300 nested sequences", lambda: nested(300, defined=False), LimitExceeded, "nested deeper"),
    refused("20,000 nested sequences", lambda: nested(20_000, defined=False), LimitExceeded, "nested deeper"),
    refused(
        "20,000 nested sequences of defined length",
        lambda: nested(20_000, defined=True),
        LimitExceeded,
        "nested deeper",
    ),
    refused(
        "20,000 nested sequences, implicit VR",
        lambda: nested_implicit(20_000),
        LimitExceeded,
        "nested deeper",
    ),
    exact("20 nested sequences", lambda: nested(20, defined=False)),
    exact("20 nested sequences of defined length", lambda: nested(20, defined=True)),
    refused(
        "window LUT of 65,536 entries in 2 bytes", lambda: with_extra(LINEAR_LUT), CorruptImage, "LUT Data"
    ),
    refused(
        "palette of 256 entries in 2 bytes",
        lambda: part10(
            image_elements(PhotometricInterpretation=element(0x00280004, "CS", b"PALETTE COLOR "))
            + PALETTE
            + PIXEL_ELEMENT
        ),
        CorruptImage,
        "palette",
    ),
    exact("window width 0 on 8 bits", lambda: with_extra(ds(0x00281050, b"40") + ds(0x00281051, b"0"))),
    refused(
        "rescale slope 0",
        lambda: with_extra(ds(0x00281052, b"0") + ds(0x00281053, b"0")),
        CorruptImage,
        "Rescale",
    ),
    refused(
        "rescale slope NaN",
        lambda: with_extra(ds(0x00281052, b"0") + ds(0x00281053, b"NaN")),
        CorruptImage,
        "Rescale",
    ),
    exact(
        "pixel aspect ratio 1:10^9",
        lambda: with_extra(element(0x00280034, "IS", b"1\\1000000000")),
    ),
    # Compression
    exact("deflated", lambda: deflated(GOOD)),
    refused("deflated bomb, 853 MiB", deflate_bomb, LimitExceeded, "inflates to more than"),
    refused("deflated, cut off", lambda: deflated(GOOD)[:-20], CorruptImage, "cut off"),
    refused(
        "unknown transfer syntax",
        lambda: part10(GOOD, syntax="1.2.3.4.5"),
        UnsupportedImage,
        "transfer syntax",
    ),
    refused(
        "JPEG declared, uncompressed there",
        lambda: part10(GOOD, syntax=JPEGBaseline8Bit),
        CorruptImage,
        "not in fragments",
    ),
    refused("compressed, no fragment", lambda: encapsulated(item(b"") + END), CorruptImage, "frame 0"),
    refused(
        "a fragment of 4 GiB declared",
        lambda: encapsulated(item(b"") + item(b"\xff\xd8", length=0xFFFFFFF0)),
        CorruptImage,
        "ends within its pixel data",
    ),
    refused(
        "300,000 empty fragments",
        lambda: encapsulated(item(b"") + item(b"") * 300_000 + END),
        LimitExceeded,
        "more fragments",
    ),
    refused(
        "offset table of 4 GiB declared",
        lambda: encapsulated(item(b"", length=0xFFFFFFF0)),
        LimitExceeded,
        "offset table",
    ),
    refused(
        "offset table that points past the end",
        lambda: encapsulated(item(struct.pack("<L", 0x7FFFFFFF)) + item(jpeg(4, 4)) + END),
        CorruptImage,
        "frame 0",
    ),
    refused(
        "extended offset table of 2^63",
        lambda: encapsulated(
            item(b"") + item(jpeg(4, 4)) + END,
            ExtendedOffsetTable=element(0x7FE00001, "OV", struct.pack("<Q", 1 << 63)),
            ExtendedOffsetTableLengths=element(0x7FE00002, "OV", struct.pack("<Q", 1 << 63)),
        ),
        CorruptImage,
        "",
    ),
    refused(
        "JPEG of 65,500 x 65,500 in a 4 x 4 image",
        lambda: encapsulated(item(b"") + item(jpeg(65500, 65500)) + END),
        CorruptImage,
        "another size",
    ),
    refused(
        "JPEG 2000 of 2^31 x 2^31 in a 4 x 4 image",
        lambda: encapsulated(item(b"") + item(j2k(1 << 31, 1 << 31)) + END, JPEG2000Lossless),
        CorruptImage,
        "another size",
    ),
    refused(
        "damaged JPEG 2000",
        lambda: encapsulated(item(b"") + item(j2k(4, 4)) + END, JPEG2000Lossless),
        CorruptImage,
        "does not decode",
    ),
    refused(
        "JPEG 2000 in a JP2 file with a box of length 0 (pydicom never returns)",
        lambda: encapsulated(
            item(b"") + item(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(8) + j2k(4, 4)) + END, JPEG2000Lossless
        ),
        CorruptImage,
        "boxes are damaged",
    ),
    refused(
        "damaged RLE",
        lambda: encapsulated(item(b"") + item(b"\xff" * 80) + END, RLELossless),
        CorruptImage,
        "does not decode",
    ),
    refused("gzip bomb", lambda: gzip.compress(bytes(64 << 20), 9), CorruptImage, "not a DICOM file"),
    refused("ZIP bomb", lambda: zipped(bytes(64 << 20)), CorruptImage, "not a DICOM file"),
    # Pictures
    exact("EXIF orientation 6", turned, np.rot90(PIXELS, -1), ".png"),
    exact(
        "16-bit PNG", lambda: picture("PNG", Image.fromarray(PIXELS.astype(np.uint16) * 257)), PIXELS, ".png"
    ),
    exact(
        "animated GIF: the first frame",
        lambda: picture("GIF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
        np.dstack([PIXELS] * 3),
        ".gif",
    ),
    exact("a PNG named .jpg", small_png, PIXELS, ".jpg"),
    exact("a PNG with a ZIP behind it", lambda: small_png() + zipped(b"x"), PIXELS, ".png"),
    exact(
        "a PNG with 8 text chunks of 128 MiB each",
        lambda: small_png(chunk(b"zTXt", b"x\0\0" + zeros(128)) * 8),
        PIXELS,
        ".png",
    ),
    refused(
        "PNG bomb of 60,000 x 60,000", lambda: png(60000, 60000, zeros(64)), LimitExceeded, "60000", ".png"
    ),
    exact(
        "PNG of 7,000 x 7,000 zeros (48 kB)",
        lambda: png(7000, 7000, zlib.compress(bytes(7001 * 7000), 9)),
        np.zeros((7000, 7000), np.uint8),
        ".png",
    ),
    refused("PNG cut off", lambda: small_png()[:-20], CorruptImage, "cut off", ".png"),
    refused(
        "PNG with a wrong CRC",
        lambda: small_png()[:45] + b"x" + small_png()[46:],
        CorruptImage,
        "CRC",
        ".png",
    ),
    refused("JPEG of 65,500 x 65,500", lambda: jpeg(65500, 65500), LimitExceeded, "65500", ".jpg"),
    refused("JPEG cut off", lambda: picture("JPEG")[:-30], CorruptImage, "cut off", ".jpg"),
    refused("JPEG without a height", lambda: jpeg(0, 4), CorruptImage, "without pixels", ".jpg"),
    refused("GIF of 65,535 x 65,535", lambda: gif_screen(65535, 65535), LimitExceeded, "more pixels", ".gif"),
    refused("BMP of 2^30 x 2^30", lambda: bmp_size(1 << 30, 1 << 30), LimitExceeded, "more pixels", ".bmp"),
    exact("TIFF whose pages form a loop", tiff_loop, PIXELS, ".tif"),
    refused("TIFF cut off", lambda: picture("TIFF", compression="tiff_lzw")[:-60], CorruptImage, "", ".tif"),
    refused("SVG", lambda: b'<?xml version="1.0"?><svg/>', CorruptImage, "not a DICOM file", ".svg"),
    refused("HTML named .png", lambda: b"<!DOCTYPE html><script>", CorruptImage, "not a DICOM file", ".png"),
]


def table() -> str:
    """The page ``docs/hostile.md``."""
    lines = [f"| {row.name} | {row.gets.rstrip(': ')} |" for row in ROWS]
    return HEAD + "\n".join(lines) + "\n" + TAIL


HEAD = """# Hostile files

Each row is a file made in code by `tests/hostile/rows.py`, read in the decoder jail as the product reads
it. It gets a typed, named rejection or exactly the right pixels, within two seconds of processor time and
300 MB above the idle decoder process; the run goes on, and files in = indexed + rejected. This page is
written from the table that the tests run (`python -m tests.hostile.rows > docs/hostile.md`), and a test
compares the two.

| file | what it gets |
|---|---|
"""

TAIL = """
Beyond the table, by the same rule:

- a small DICOM file and a PNG cut at every offset, larger real files at seeded offsets;
- seeded mutations of small real files of every transfer syntax and of every kind of picture: flipped
  bytes, lying lengths, cut, repeated and spliced pieces, exchanged tags and VRs
  (`tests/hostile/test_damage.py`);
- bad and repeated UIDs, objects that are no images, captions, vectors, numbers of results and filters
  (`tests/hostile/test_around.py`);
- mutations without end: `python -m tests.hostile.fuzz --minutes 60`. One such hour, one process on a busy
  machine: 1,907,775 cases, of which 332,137 gave pixels and the rest typed rejections, but for 5 that were
  all the endless JP2 box below, mended since.

What fuzzing found, and what became of it:

- pylibjpeg's RLE decoder, written in Rust, panics on damaged segments, and the panic passes
  `except Exception`: caught, a `CorruptImage`;
- a JP2 box of length 0 before a JPEG 2000 codestream keeps pydicom walking for ever: boxes are walked
  before pydicom sees them;
- a TIFF that declares more rows than its strips cover is decoded by Pillow without a word, the rest black:
  strips and tiles must cover the page and lie within the file.

What is not seen: JPEG and JPEG 2000 have no checksum, so that damage inside a compressed scan which still
decodes gives an ugly picture, not a rejection. A cut-off JPEG is seen by its missing end marker.

## How the caps work

`Limits` (`clinical_clip.dicom.limits`) are checked on what a file declares, before anything is allocated:
bytes of the file, pixels of a frame, frames, depth of nested sequences, inflated bytes, bytes of the
header. What a decoder does in spite of that is caught by the jail (`clinical_clip.data.jail`): child
processes with a cap on memory (RLIMIT_AS) and time, no core dumps and no writing of files, that die with
their parent. A child that crashes, hangs or outgrows its cap costs the file that it was decoding, which
comes back as `DecoderFailed`; results travel as JSON and checked shared memory, never as pickles.
"""

if __name__ == "__main__":
    print(table(), end="")

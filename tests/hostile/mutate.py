"""Damage done to good files: seeded, so that each case can be made again."""

from __future__ import annotations

import random
import struct

__all__ = ["mutate"]

_LENGTHS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_NUMBERS = (
    b"0",
    b"-1",
    b"NaN",
    b"inf",
    b"1e308",
    b"1e-320",
    b"99999999",
    b"",
    b"1\\2\\3",
    b"\\\\",
    b"\xff\xfe",
    b"0.0000001",
    b"65536",
)
_TAGS = (
    0x00280002,
    0x00280004,
    0x00280006,
    0x00280008,
    0x00280010,
    0x00280011,
    0x00280100,
    0x00280101,
    0x00280102,
    0x00280103,
    0x00281050,
    0x00281051,
    0x00281052,
    0x00281053,
    0x00281056,
    0x00281101,
    0x00281201,
    0x00283000,
    0x00283002,
    0x00283010,
    0x00280120,
    0x00280034,
    0x7FE00010,
    0x7FE00001,
    0x52009230,
    0xFFFEE000,
    0xFFFEE00D,
    0xFFFEE0DD,
    0x00020010,
)
_VRS = (b"SQ", b"UN", b"OB", b"OW", b"US", b"SS", b"DS", b"IS", b"CS", b"UI", b"FD", b"zz", b"\0\0")


def mutate(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """``data`` after one to six small damages."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if len(damaged) < 8:
            break
        rng.choice(_DAMAGES)(damaged, rng, others)
    return bytes(damaged)


def _place(damaged: bytearray, rng: random.Random) -> int:
    """Anywhere, but more often near the start, where the headers are."""
    limit = rng.choice((64, 400, 2000, len(damaged), len(damaged)))
    return rng.randrange(max(1, min(limit, len(damaged) - 4)))


def _flip(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    damaged[_place(damaged, rng)] ^= 1 << rng.randrange(8)


def _byte(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    damaged[_place(damaged, rng)] = rng.randrange(256)


def _length(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at, value = _place(damaged, rng), rng.choice(_LENGTHS)
    order = rng.choice("<>")
    size, letter = rng.choice(((2, "H"), (4, "L")))
    damaged[at : at + size] = struct.pack(f"{order}{letter}", value & ((1 << 8 * size) - 1))


def _cut(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    del damaged[_place(damaged, rng) :]


def _drop(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = _place(damaged, rng)
    del damaged[at : at + rng.choice((1, 2, 4, 8, 100))]


def _insert(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = _place(damaged, rng)
    damaged[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 100)))


def _repeat(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = _place(damaged, rng)
    piece = bytes(damaged[at : at + rng.choice((8, 12, 64, 500))])
    damaged[at:at] = piece * rng.choice((1, 2, 50))


def _splice(damaged: bytearray, rng: random.Random, others: list[bytes]) -> None:
    other = rng.choice(others)
    at, start = _place(damaged, rng), rng.randrange(len(other))
    size = rng.choice((16, 200, 5000))
    damaged[at : at + size] = other[start : start + size]


def _find(damaged: bytearray, rng: random.Random) -> int:
    """Where one of the elements that decide about pixels begins, or -1."""
    for tag in rng.sample(_TAGS, len(_TAGS)):
        order = rng.choice("<<<>")
        at = damaged.find(struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF))
        if at >= 0:
            return at
    return -1


def _element_value(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = _find(damaged, rng)
    if at < 0:
        return
    if rng.random() < 0.5:
        struct.pack_into("<H", damaged, min(at + 8, len(damaged) - 2), rng.choice(_LENGTHS) & 0xFFFF)
        return
    text = rng.choice(_NUMBERS)
    (length,) = struct.unpack_from("<H", damaged.ljust(at + 8, b"\0"), at + 6)
    if rng.random() < 0.5:
        damaged[at + 8 : at + 8 + min(length, 64)] = text.ljust(min(length, 64))[: min(length, 64)]
    else:
        padded = text + b" " * (len(text) % 2)
        damaged[at + 6 : at + 8 + length] = struct.pack("<H", len(padded)) + padded


def _element_vr(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = _find(damaged, rng)
    if at >= 0:
        damaged[at + 4 : at + 6] = rng.choice(_VRS)


def _element_length(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at = _find(damaged, rng)
    if at < 0:
        return
    value = rng.choice(_LENGTHS)
    if rng.random() < 0.5:
        damaged[at + 6 : at + 8] = struct.pack("<H", value & 0xFFFF)
    else:
        damaged[at + 8 : at + 12] = struct.pack("<L", value)


def _swap_tag(damaged: bytearray, rng: random.Random, _: list[bytes]) -> None:
    at, tag = _find(damaged, rng), rng.choice(_TAGS)
    if at >= 0:
        damaged[at : at + 4] = struct.pack("<HH", tag >> 16, tag & 0xFFFF)


_DAMAGES = (
    _flip,
    _flip,
    _byte,
    _length,
    _cut,
    _drop,
    _insert,
    _repeat,
    _splice,
    _element_value,
    _element_value,
    _element_vr,
    _element_length,
    _swap_tag,
)

"""Columns of the catalogue in memory, as codes over the index's slots, so that a filter is one comparison."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from clinical_clip.index import schema
from clinical_clip.index.records import parse_fields
from clinical_clip.types import FieldValue

__all__ = ["BUILT_IN", "Column", "Columns", "as_number", "fold"]

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

BUILT_IN = ("frame", "kind", "relative_path", "series_uid", "sop_instance_uid", "study_uid")
"""Columns of ``items`` that can be filtered by like any field."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One field over all slots.

    Attributes:
        slots: int64 (N,), the slots that the codes stand beside, negative where removed.
        codes: int32 (N,), index into ``values``, or -1 where the image has no such field or is gone.
        values: the distinct values, in the order they were met.
    """

    slots: NDArray[np.int64]
    codes: NDArray[np.int32]
    values: tuple[FieldValue, ...]

    @cached_property
    def by_text(self) -> Mapping[str, tuple[int, ...]]:
        """Codes by case-folded text; ``""`` stands for blank values."""
        found: dict[str, list[int]] = {}
        for code, value in enumerate(self.values):
            found.setdefault(fold(value), []).append(code)
        return {text: tuple(codes) for text, codes in found.items()}

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """float64 (V,): each value as a number, NaN where it is none."""
        return np.array([as_number(value) for value in self.values], dtype=np.float64)

    def where(self, wanted_V: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mask (N,) of images whose value is wanted, as ``wanted_V`` says of each of ``values``."""
        chosen = np.flatnonzero(wanted_V)
        if len(chosen) == 1:
            mask: NDArray[np.bool_] = self.codes == chosen[0]
            return mask
        if not len(chosen):
            return np.zeros(len(self.codes), dtype=np.bool_)
        mask = np.append(wanted_V, False)[self.codes]
        return mask


def fold(value: FieldValue) -> str:
    """Text that is equal for values that read the same.

    >>> fold(" Chest "), fold(3), fold(3.0)
    ('chest', '3', '3')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split()).casefold()


def as_number(value: FieldValue) -> float:
    """The value as a number, dates (``2015-03-31``) as 20150331, NaN where it is neither.

    >>> as_number("512"), as_number("2015-03-31"), as_number("12 mm")
    (512.0, 20150331.0, nan)
    """
    if isinstance(value, str):
        value = "".join(value.strip().split("-")) if _DATE.fullmatch(value.strip()) else value
    try:
        return float(value)
    except ValueError:
        return math.nan


class Columns:
    """The columns that were asked for, kept and extended as the index grows."""

    def __init__(self) -> None:
        self._held: dict[str, Column] = {}
        self._mutex = threading.Lock()

    def get(self, connection: sa.Connection, name: str, slots_N: NDArray[np.int64]) -> Column:
        """The column of ``name`` (exact spelling) beside ``slots_N`` (negative where removed)."""
        with self._mutex:
            held = self._held.get(name)
            if held is None or held.slots is not slots_N:
                held = self._held[name] = _extended(connection, name, slots_N, held)
            return held


def _extended(
    connection: sa.Connection, name: str, slots_N: NDArray[np.int64], held: Column | None
) -> Column:
    """The column beside ``slots_N``: what is held already, and the slots that came since."""
    known = len(held.slots) if held is not None else 0
    if held is None or not np.array_equal(np.abs(held.slots), np.abs(slots_N[:known])):
        held, known = None, 0
    slots = np.abs(slots_N)
    codes = np.full(len(slots), -1, dtype=np.int32)
    values = _Codes(held.values if held is not None else ())
    if held is not None:
        codes[:known] = held.codes
    if known < len(slots):
        after = int(slots[known - 1]) if known else 0
        found_slots, found = _read(connection, name, after=after, codes=values)
        at = np.minimum(np.searchsorted(slots, found_slots), len(slots) - 1)
        inside = slots[at] == found_slots
        codes[at[inside]] = found[inside]
    return Column(slots=slots_N, codes=codes, values=tuple(values.values))


def _read(
    connection: sa.Connection, name: str, *, after: int, codes: _Codes
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Slots above ``after`` and their codes; values met for the first time get the next code."""
    items = schema.items
    built_in = name in BUILT_IN
    raw: Any = items.c[name] if built_in else sa.type_coerce(items.c.fields[name], sa.Text)
    statement = sa.select(items.c.slot, raw).where(items.c.slot > after).order_by(items.c.slot)
    rows = connection.execute(statement).all()
    found = np.empty(len(rows), dtype=np.int32)
    met: dict[Any, int] = {None: -1} if built_in else {None: -1, "null": -1}
    for at, (_, value) in enumerate(rows):
        code = met.get(value)
        if code is None:
            code = met[value] = codes.of(value if built_in else parse_fields(value))
        found[at] = code
    return np.array([row[0] for row in rows], dtype=np.int64), found


class _Codes:
    """Numbers for values, in the order they are met."""

    def __init__(self, values: Iterable[FieldValue]) -> None:
        self.values = list(values)
        self._code = {value: code for code, value in enumerate(self.values)}

    def of(self, value: FieldValue) -> int:
        code = self._code.setdefault(value, len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code

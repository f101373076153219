r"""``--where``: which images may be found.

::

    modality=CT            equal, whatever the case
    modality!=CT           not equal, or without a modality
    modality=CT|MR         one of these
    organ="left | right"   quotes keep ``|``, ``..`` and blanks; \" inside for a quote
    organ=""               without an organ
    rows<512   year>=2015  numbers, and dates as 2015-03-31 or 20150331; also > and <=
    year=2010..2015        from, to, both included; either end may be left out

Several expressions must all hold. Values never become SQL: they are looked up in the column's own values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import FilterError
from clinical_clip.index import Library
from clinical_clip.index.columns import Column, as_number, fold
from clinical_clip.index.protocol import Snapshot

__all__ = ["Condition", "mask_of", "matching_ids", "parse"]

_EXPRESSION = re.compile(r"\s*([^=!<>|\"]+?)\s*(!=|>=|<=|=|<|>)(.*)", re.DOTALL)
_ALTERNATIVE = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^|"]*))\s*(\||$)', re.DOTALL)
_HINT = "write it as field=value, field!=a|b, field>=number or field=from..to"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Alternative:
    """One value: a text to be equal to, or a range (``low``, ``high``) to lie in."""

    text: str = ""
    low: float = math.nan
    high: float = math.nan

    @property
    def is_range(self) -> bool:
        return not math.isnan(self.low)


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One parsed expression: ``field operator alternative|alternative``."""

    field: str
    operator: str
    alternatives: tuple[_Alternative, ...]

    def mask(self, column: Column) -> NDArray[np.bool_]:
        """Which images (N,) of the column's slots it holds for."""
        wanted_V = np.zeros(len(column.values), dtype=np.bool_)
        blank = False
        for alternative in self.alternatives:
            if self.operator not in ("=", "!="):
                wanted_V |= _compare(self.operator, column.numbers, alternative.low)
            elif alternative.is_range:
                wanted_V |= (column.numbers >= alternative.low) & (column.numbers <= alternative.high)
            else:
                blank |= alternative.text == ""
                wanted_V[list(_equal(column, alternative.text))] = True
        mask = column.where(wanted_V)
        if blank:
            mask = mask | (column.codes < 0)
        return ~mask if self.operator == "!=" else mask


def parse(expressions: Iterable[str]) -> tuple[Condition, ...]:
    """Parse ``--where`` expressions; all must hold.

    Raises:
        FilterError: one that does not parse.

    >>> parse(["modality = CT|MR"])[0].field
    'modality'
    >>> parse(["modality"])
    Traceback (most recent call last):
    ...
    clinical_clip.errors.FilterError: a filter that does not parse (where): write it as field=value, ...
    """
    return tuple(_parse_one(expression) for expression in expressions)


def _parse_one(expression: str) -> Condition:
    found = _EXPRESSION.fullmatch(expression)
    if found is None:
        raise FilterError("a filter that does not parse", where="where", hint=_HINT)
    field, operator, rest = found.groups()
    alternatives = tuple(_alternatives(rest, operator, field))
    return Condition(field=field, operator=operator, alternatives=alternatives)


def _alternatives(rest: str, operator: str, field: str) -> Iterable[_Alternative]:
    at = 0
    while True:
        found = _ALTERNATIVE.match(rest, at)
        if found is None:
            raise FilterError(
                "a filter with a stray quote",
                where=field,
                hint='quote whole values: organ="left lung"',
            )
        quoted, plain, bar = found.groups()
        yield _alternative(quoted, (plain or "").strip(), operator, field)
        at = found.end()
        if not bar:
            return


def _alternative(quoted: str | None, plain: str, operator: str, field: str) -> _Alternative:
    text = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
    if operator not in ("=", "!="):
        return _Alternative(low=_number(text, field))
    if quoted is not None:
        return _Alternative(text=fold(text))
    if not text:
        raise FilterError(
            "a filter without a value", where=field, hint=f'for images without, write {field}=""'
        )
    low, dots, high = text.partition("..")
    if not dots:
        return _Alternative(text=fold(text))
    if not low and not high:
        raise FilterError("a range without an end", where=field, hint="write it as from..to")
    return _Alternative(
        low=_number(low, field) if low else -math.inf, high=_number(high, field) if high else math.inf
    )


def _number(text: str, field: str) -> float:
    number = as_number(text.strip())
    if math.isnan(number):
        raise FilterError("a comparison with what is no number", where=field, hint=_HINT)
    return number


def _compare(operator: str, numbers_V: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    compared: NDArray[np.bool_] = {
        "<": np.less,
        "<=": np.less_equal,
        ">": np.greater,
        ">=": np.greater_equal,
    }[operator](numbers_V, limit)
    return compared


def _equal(column: Column, text: str) -> Sequence[int]:
    """Codes of the values that read as ``text``, or are the same number."""
    codes = column.by_text.get(text, ())
    number = as_number(text)
    if math.isnan(number):
        return codes
    return [*codes, *np.flatnonzero(column.numbers == number).tolist()]


def mask_of(library: Library, snapshot: Snapshot, expressions: Iterable[str]) -> NDArray[np.bool_] | None:
    """Which images (N,) of the snapshot's slots all expressions hold for; None where there is none.

    Raises:
        FilterError: one does not parse, or names no field; the hint lists the fields there are.
    """
    mask: NDArray[np.bool_] | None = None
    for condition in parse(expressions):
        column = library.column(field_named(library, condition.field), snapshot)
        holds = condition.mask(column)
        mask = holds if mask is None else mask & holds
    return mask


def field_named(library: Library, name: str) -> str:
    """The field that ``name`` means: spelled so, or so but for case.

    Raises:
        FilterError: there is none.
    """
    known = library.field_names()
    if name in known:
        return name
    for field in known:
        if field.casefold() == name.casefold():
            return field
    shown = name if len(name) <= 40 else name[:40] + "..."
    raise FilterError(
        f"no image has a field {shown!r}", where="where", hint=f"fields are: {', '.join(known)}"
    )


def matching_ids(library: Library, expressions: Sequence[str]) -> list[str]:
    """Ids of the images that all expressions hold for, in the order in which they were stored."""
    snapshot = library.snapshot()
    mask = mask_of(library, snapshot, expressions)
    held = snapshot.slots > 0
    chosen = snapshot.slots[held if mask is None else held & mask]
    return [name for name in library.names_of(chosen) if name]

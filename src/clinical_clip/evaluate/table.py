"""The rows of a manifest as columns of text, in the order of their ids.

N rows. Codes are int64 (N,), counted from 0 in the order of the sorted values; -1 stands for an empty value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clinical_clip.errors import EvaluationError, ManifestError, OptionError
from clinical_clip.types import FieldValue

__all__ = ["Codes", "Table", "parse_conditions", "parse_labels"]

Condition = Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Codes:
    """A column (or several, joined) as numbers: ``values[code_N[i]]`` is row i's value, -1 its absence."""

    code_N: NDArray[np.int64]
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """Rows of a manifest.

    Attributes:
        names: one distinct name a row (path relative to the image root), in ascending order.
        columns: values by column, as text; an absent value is the empty text.
    """

    names: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, Mapping[str, FieldValue]]]) -> Table:
        """A table of (name, fields) pairs in any order.

        >>> t = Table.of([("b.png", {"modality": "ct"}), ("a.png", {"modality": "mr", "organ": "brain"})])
        >>> t.names, t.columns["organ"]
        (('a.png', 'b.png'), ('brain', ''))

        Raises:
            ManifestError: two rows have the same name.
        """
        ordered = sorted(rows, key=lambda row: row[0])
        names = tuple(name for name, _ in ordered)
        twice = next((a for a, b in pairwise(names) if a == b), None)
        if twice is not None:
            raise ManifestError("an image is listed twice", where=twice, hint="keep one row an image")
        fields = dict.fromkeys(key for _, row in ordered for key in row)
        return cls(
            names=names,
            columns={key: tuple(str(row.get(key, "")).strip() for _, row in ordered) for key in fields},
        )

    def __len__(self) -> int:
        return len(self.names)

    def column(self, name: str) -> tuple[str, ...]:
        """The values of column ``name``.

        Raises:
            ManifestError: there is no such column; the hint lists those there are.
        """
        if name not in self.columns:
            listed = ", ".join(sorted(self.columns)) or "none"
            raise ManifestError(f"no column {name!r}", where="manifest", hint=f"the columns are: {listed}")
        return self.columns[name]

    def codes(self, *names: str) -> Codes:
        """One code for each distinct combination of the columns; -1 where any of them is empty."""
        parts = [self.column(name) for name in names]
        joined = [" + ".join(row) if all(row) else "" for row in zip(*parts, strict=True)]
        values = tuple(sorted(set(joined) - {""}))
        code = {value: i for i, value in enumerate(values)} | {"": -1}
        return Codes(code_N=np.array([code[value] for value in joined], dtype=np.int64), values=values)

    def mask(self, conditions: Condition) -> NDArray[np.bool_]:
        """Rows that have, in every column named, one of the values given."""
        keep_N = np.ones(len(self), dtype=np.bool_)
        for name, wanted in conditions.items():
            keep_N &= np.array([value in wanted for value in self.column(name)], dtype=np.bool_)
        return keep_N

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Table:
        """The table of some rows, which must be given in ascending order."""
        index = [int(row) for row in rows]
        columns = {key: tuple(values[i] for i in index) for key, values in self.columns.items()}
        return Table(names=tuple(self.names[i] for i in index), columns=columns)

    def select(self, conditions: Condition) -> Table:
        """The rows that fulfil ``conditions``.

        Raises:
            EvaluationError: no row does; the hint lists values that do occur.
        """
        chosen = self.take(np.flatnonzero(self.mask(conditions)))
        if not chosen.names:
            have = [f"{name}: {', '.join(sorted(set(self.column(name)))[:8])}" for name in conditions]
            hint = "the columns hold " + "; ".join(have) if have else "the manifest lists no readable image"
            raise EvaluationError("no row is left to evaluate", where="rows", hint=hint)
        return chosen


def parse_labels(text: str) -> tuple[tuple[str, ...], ...]:
    """Label settings of ``"modality,organ,modality+organ"``: a tuple of columns each.

    >>> parse_labels("modality, modality+organ")
    (('modality',), ('modality', 'organ'))
    """
    settings = tuple(tuple(c.strip() for c in part.split("+")) for part in text.split(",") if part.strip())
    if not settings or not all(all(setting) for setting in settings):
        raise OptionError(
            f"no label columns in {text!r}",
            where="--labels",
            hint="for example modality,organ,modality+organ",
        )
    return tuple(dict.fromkeys(settings))


def parse_conditions(texts: Iterable[str], *, option: str) -> dict[str, frozenset[str]]:
    """``COLUMN=VALUE`` texts: values of one column are alternatives, several columns must all agree.

    >>> parse_conditions(["split=test", "split=val"], option="--rows")["split"] == {"test", "val"}
    True
    """
    wanted: dict[str, frozenset[str]] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise OptionError(f"cannot read {text!r}", where=option, hint="write COLUMN=VALUE")
        wanted[name] = wanted.get(name, frozenset()) | {value}
    return wanted

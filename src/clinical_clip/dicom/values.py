"""Values of DICOM elements as plain text and numbers, whatever the file put there."""

from __future__ import annotations

import math
import re
from typing import Any

from pydicom.dataset import Dataset

__all__ = ["code_of", "numbers_of", "text_of", "texts_of", "uid_of", "valid_uid", "values_of", "whole_of"]

_MAX_TEXT = 1024
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def valid_uid(text: str) -> bool:
    """Whether ``text`` is a UID: components of digits joined by dots, at most 64 characters (PS3.5 9.1).

    Leading zeros of a component are let pass: archives are full of them and they do no harm.

    >>> valid_uid("1.2.840.10008.1.1"), valid_uid("../../x"), valid_uid("1." * 40), valid_uid("")
    (True, False, False, False)
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def values_of(dataset: Dataset, keyword: str) -> list[Any]:
    """The values of an element, without its empty ones; none where it is missing or cannot be decoded."""
    try:
        value = dataset.get(keyword)
    except RecursionError:
        raise
    except Exception:
        return []
    if value is None:
        return []
    several = not isinstance(value, str | bytes) and hasattr(value, "__iter__") and keyword != "PatientName"
    return [one for one in (value if several else [value]) if one is not None]


def texts_of(dataset: Dataset, keyword: str) -> list[str]:
    """The values as clean text: no control characters, at most 1024 characters each, none empty."""
    cleaned = (_UNPRINTABLE.sub(" ", str(one)[:_MAX_TEXT]).strip() for one in values_of(dataset, keyword))
    return [text.encode("utf-8", "replace").decode() for text in cleaned if text]


def text_of(dataset: Dataset, keyword: str) -> str:
    """The first value as clean text, or nothing."""
    return next(iter(texts_of(dataset, keyword)), "")


def uid_of(dataset: Dataset, keyword: str) -> str:
    """The value where it is a valid UID, or nothing."""
    text = text_of(dataset, keyword)
    return text if valid_uid(text) else ""


def whole_of(dataset: Dataset, keyword: str) -> int | None:
    """The first value as a whole number, or None."""
    try:
        return int(values_of(dataset, keyword)[0])
    except (IndexError, TypeError, ValueError, OverflowError):
        return None


def numbers_of(dataset: Dataset, keyword: str, n: int) -> tuple[float, ...] | None:
    """The values where they are ``n`` finite numbers, or None."""
    try:
        numbers = tuple(float(one) for one in values_of(dataset, keyword))
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == n and all(map(math.isfinite, numbers)) else None


def code_of(dataset: Dataset, keyword: str) -> str:
    """The Code Meaning of a code sequence's first item (PS3.3 8.8)."""
    items = values_of(dataset, keyword)
    return text_of(items[0], "CodeMeaning") if items and isinstance(items[0], Dataset) else ""

"""Text on its way into a CSV file that somebody opens in a spreadsheet."""

from __future__ import annotations

__all__ = ["inert_cell"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def inert_cell(text: str) -> str:
    """Text that a spreadsheet shows and does not take for a formula.

    >>> inert_cell("=1+1"), inert_cell("scan.png")
    ("'=1+1", 'scan.png')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text

"""What ``data check`` shows on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from clinical_clip.data.pairs.check import CheckReport, Repeats

__all__ = ["show_check"]

_MOST = 10


def show_check(report: CheckReport, console: Console) -> None:
    """Print the report as tables; ids and counts, never a caption."""
    console.print(f"[bold]{report.name}[/bold]  {report.pairs:,} pairs  sha256 {report.digest[:12]}")
    _counts(report, console)
    _tokens(report, console)
    _leaks(report, console)
    _licences(report, console)
    _named("missing images", list(report.missing), console)
    _named("problems", [str(one) for one in report.problems], console)


def _counts(report: CheckReport, console: Console) -> None:
    rows = [
        ("images found", f"{report.found:,}"),
        ("images missing", f"{len(report.missing):,}"),
        ("images without a caption", f"{report.uncaptioned:,}"),
        ("captions made by a program", f"{report.synthetic:,}"),
        ("same caption", _repeated(report.same_captions)),
        ("same image file", _repeated(report.same_images)),
        ("similar image", _repeated(report.similar_images)),
        ("same article or patient", _repeated(report.articles)),
        ("bad rows", f"{len(report.problems):,}"),
    ]
    rows += [(f"split {name or '(none)'}", f"{count:,}") for name, count in report.splits.items()]
    rows += [(f"without a concept, {name}", f"{count:,}") for name, count in report.without_cuis.items()]
    if (words := report.lengths) is not None:
        spread = f"{words.minimum}, {words.p5}, {words.median}, {words.p95}, {words.maximum}"
        rows.append(("words: min, 5 %, median, 95 %, max", f"{spread}; mean {words.mean}"))
    _table(console, ("", ""), rows)


def _repeated(repeats: Repeats | None) -> str:
    if repeats is None:
        return "not looked at"
    return f"{repeats.pairs:,} pairs in {repeats.groups:,} groups" if repeats.groups else "none"


def _tokens(report: CheckReport, console: Console) -> None:
    rows = [
        (one.tower, str(one.limit), f"{one.truncated:,}", f"{one.share:.2%}", f"{one.lost:.2%}", one.note)
        for one in report.truncation
    ]
    if rows:
        _table(console, ("tower", "limit", "truncated", "of captions", "tokens lost", "counted with"), rows)


def _leaks(report: CheckReport, console: Console) -> None:
    rows = [
        (
            f"{one.first or '(none)'} / {one.second or '(none)'}",
            "article/patient" if name == "article" else name,
            f"{one.shared:,}",
            f"{one.first_pairs:,}",
            f"{one.second_pairs:,} ({one.second_pairs / max(1, one.second_total):.1%})",
        )
        for name, each in report.leaks.items()
        for one in each
    ]
    if rows:
        _table(console, ("splits", "shared", "values", "pairs in first", "pairs in second"), rows)


def _licences(report: CheckReport, console: Console) -> None:
    rows = [
        (name[:60], f"{count:,}", f"{count / max(1, report.pairs):.1%}")
        for name, count in list(report.licences.items())[:30]
    ]
    _table(console, ("licence", "pairs", "share"), rows)


def _table(console: Console, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=any(heads), header_style="dim", pad_edge=False)
    for number, head in enumerate(heads):
        last = number == len(heads) - 1
        table.add_column(head, justify="left" if last or not number else "right", no_wrap=not last)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    console.print()


def _named(what: str, lines: list[str], console: Console) -> None:
    if not lines:
        return
    console.print(f"{len(lines):,} {what}:", style="yellow")
    for line in lines[:_MOST]:
        console.print(f"  {line}", markup=False, highlight=False)
    if len(lines) > _MOST:
        console.print(f"  and {len(lines) - _MOST:,} more; all of them with --json", markup=False)

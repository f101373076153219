"""What several verbs show the same way: progress, rejections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from clinical_clip.embed.progress import Progress
    from clinical_clip.types import Rejection

__all__ = ["STDERR", "print_json", "progress_bar", "show_rejections"]

STDERR = Console(stderr=True)


def print_json(value: object) -> None:
    """Print one JSON document on standard output."""
    import json

    print(json.dumps(value, indent=2, default=str))


@contextmanager
def progress_bar(verb: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error with count, rate and time left; gone when it is done."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Bar(*columns, console=STDERR, transient=True) as bar:
        task = bar.add_task(verb, total=None, state="scanning")

        def update(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.done + progress.rejected + progress.skipped,
                total=progress.seen if progress.total_known else None,
                state=describe(progress),
            )

        yield update


def describe(progress: Progress) -> str:
    """One line: ``1,024 of 10,469 images, 3 rejected, 212/s, 0:44 left``."""
    parts = [f"{progress.done + progress.skipped:,} of {progress.seen:,} images"]
    if not progress.total_known:
        parts[0] += " found so far"
    if progress.rejected:
        parts.append(f"{progress.rejected:,} rejected")
    parts.append(f"{progress.rate_per_s:.0f}/s")
    if progress.left_s is not None:
        minutes, seconds = divmod(round(progress.left_s), 60)
        parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)


def show_rejections(rejections: Sequence[Rejection], *, most: int = 10) -> None:
    """Name what was not indexed, and why, on standard error; all of it under ``most``, else counts."""
    if not rejections:
        return
    counts = ", ".join(f"{count} {code}" for code, count in Counter(r.code for r in rejections).most_common())
    STDERR.print(f"{len(rejections)} rejected: {counts}", style="yellow")
    for rejection in rejections[:most]:
        hint = f": {rejection.hint}" if rejection.hint else ""
        STDERR.print(f"  {rejection.name}: {rejection.what}{hint}", markup=False, highlight=False)
    if len(rejections) > most:
        STDERR.print(f"  and {len(rejections) - most} more; write them all with --rejections FILE.csv")

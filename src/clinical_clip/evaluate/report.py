"""An evaluation as a terminal table, Markdown, CSV and JSON. Shares are shown in percent."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_clip.atomic import replace_file
from clinical_clip.evaluate.bootstrap import Interval
from clinical_clip.evaluate.results import Evaluation, MethodScores, SettingResult
from clinical_clip.spreadsheet import inert_cell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["headline_metrics", "left_out_line", "print_report", "to_csv", "to_json", "write_report"]


def headline_metrics(evaluation: Evaluation) -> list[str]:
    """The metrics of the short tables: every P@K, R-precision and mAP."""
    return [f"P@{k}" for k in evaluation.protocol.ks] + ["R-precision", "mAP"]


def show(interval: Interval) -> str:
    """``87.8 [85.1, 90.2]``, in percent; without brackets where there is no interval.

    >>> show(Interval(value=0.878, low=0.851, high=0.902))
    '87.8 [85.1, 90.2]'
    """
    text = f"{100 * interval.value:.1f}"
    if math.isfinite(interval.low):
        text += f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return text


def left_out_line(setting: SettingResult, evaluation: Evaluation) -> str:
    """One sentence on which queries count, and why the others do not."""
    out = setting.left_out
    reasons = (
        f"{out.no_label} without a label",
        f"{out.empty_gallery} with an empty gallery",
        f"{out.few_relevant} with fewer than {evaluation.protocol.needed} relevant images",
    )
    return (
        f"{setting.queries} queries in {setting.clusters} groups, gallery {setting.gallery} images, "
        f"{len(setting.classes)} classes; left out: {', '.join(reasons)}.{_silent_classes(setting)}"
    )


def _silent_classes(setting: SettingResult) -> str:
    silent = [name for name, count in setting.classes.items() if not count.queries]
    return f" Without any query: {', '.join(silent)}." if silent else ""


def averages(method: MethodScores, metrics: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Rows of a table: the average's name, then one cell a metric."""
    scores = [method.score(metric) for metric in metrics]
    yield "micro", [show(score.micro) for score in scores]
    macro = [score.macro for score in scores]
    if all(interval is not None for interval in macro):
        yield "macro", [show(interval) for interval in macro if interval is not None]


def print_report(evaluation: Evaluation, console: Console) -> None:
    """One table a label setting, then what was left out and the paired tests; 80 columns suffice."""
    from rich.markup import escape

    for setting in evaluation.settings:
        console.print(_rich_table(setting, evaluation))
        console.print(escape(left_out_line(setting, evaluation)), highlight=False)
        for line in comparison_lines(setting, [f"P@{k}" for k in evaluation.protocol.ks]):
            console.print(escape(line), highlight=False)
        console.print()
    if evaluation.protocol.replicates:
        console.print("Percent, with 95 % intervals; p of a paired randomisation test.")
    if evaluation.rejections:
        console.print(f"{len(evaluation.rejections)} files could not be read, among them:")
        for rejection in evaluation.rejections[:5]:
            console.print(escape(f"  {rejection.name}: {rejection.what}"), soft_wrap=True, highlight=False)


def _rich_table(setting: SettingResult, evaluation: Evaluation) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    metrics = headline_metrics(evaluation)
    title = f"{setting.name}, gallery {evaluation.protocol.gallery}, percent"
    table = Table(
        title=escape(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", overflow="fold")
    table.add_column("mean")
    for metric in metrics:
        table.add_column("R-prec." if metric == "R-precision" else metric, justify="right", no_wrap=True)
    for method in setting.methods:
        for i, (average, cells) in enumerate(averages(method, metrics)):
            name = escape(method.method) if i == 0 else ""
            table.add_row(name, average, *(escape(_two_lines(cell)) for cell in cells))
    return table


def _two_lines(cell: str) -> str:
    """The interval under its value, so that five metrics fit 80 columns."""
    value, _, ends = cell.rstrip("]").partition(" [")
    return f"{value}\n{ends.replace(', ', '-').replace('100.0', '100')}" if ends else value


def comparison_lines(setting: SettingResult, metrics: list[str]) -> Iterator[str]:
    """One sentence a baseline: the differences in percentage points and their p-values."""
    for baseline in dict.fromkeys(c.baseline for c in setting.comparisons):
        parts = [
            f"{c.metric} {100 * c.micro.value:+.1f} [{100 * c.micro.low:+.1f}, {100 * c.micro.high:+.1f}] "
            f"p {show_p(c.micro_p)}"
            for c in setting.comparisons
            if c.baseline == baseline and c.metric in metrics
        ]
        yield f"{setting.comparisons[0].method} - {baseline}: {'; '.join(parts)}"


def show_p(p: float) -> str:
    """A p-value to two digits.

    >>> show_p(0.00049), show_p(0.25)
    ('0.0005', '0.25')
    """
    return f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def to_json(evaluation: Evaluation) -> str:
    """The whole evaluation; every share in percent, NaN as null."""
    document = asdict(evaluation)
    document["unit"] = "percent"
    document["settings"] = [_percent(setting) for setting in document["settings"]]
    return json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _percent(value: Any) -> Any:
    if isinstance(value, float):
        return round(100 * value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: v if key.endswith("_p") else _percent(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_percent(item) for item in value]
    return value


def to_csv(evaluation: Evaluation) -> str:
    """Long form, one number a line: setting, method, metric, average, percent, its interval, queries."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["labels", "method", "metric", "average", "percent", "low", "high", "queries", "left_out"]
    )
    for setting in evaluation.settings:
        left = setting.left_out
        missing = left.no_label + left.empty_gallery + left.few_relevant
        for method in setting.methods:
            for score in method.scores:
                for average, interval in (("micro", score.micro), ("macro", score.macro)):
                    if interval is None:
                        continue
                    numbers = [_number(x) for x in (interval.value, interval.low, interval.high)]
                    labels = [inert_cell(setting.name), inert_cell(method.method), score.metric, average]
                    writer.writerow([*labels, *numbers, setting.queries, missing])
    return out.getvalue()


def _number(value: float) -> str:
    return f"{100 * value:.4f}" if math.isfinite(value) else ""


def write_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write results.json, results.csv, results.md and precision.png into ``folder``; their paths."""
    from clinical_clip.evaluate.markdown import to_markdown
    from clinical_clip.evaluate.plot import plot_precision

    texts = {
        "results.json": to_json(evaluation),
        "results.csv": to_csv(evaluation),
        "results.md": to_markdown(evaluation, plot="precision.png"),
    }
    for name, text in texts.items():
        with replace_file(folder / name) as stream:
            stream.write(text.encode())
    plot_precision(evaluation, folder / "precision.png")
    return [folder / name for name in (*texts, "precision.png")]

"""Precision at K of every method, with intervals, one panel a label setting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from clinical_clip.atomic import replace_file
from clinical_clip.errors import MissingDependency
from clinical_clip.evaluate.names import RANDOM
from clinical_clip.evaluate.results import Evaluation, MethodScores, SettingResult

__all__ = ["plot_precision"]

_COLUMNS = 3
# Okabe-Ito colours, told apart by most colour-blind readers; chance is grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_precision(evaluation: Evaluation, path: Path) -> None:
    """Write the plot as PNG to ``path``, whole or not at all.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency(
            "matplotlib is needed for the plot", where="--out", hint="pip install 'clinical-clip[evaluate]'"
        ) from None
    settings = evaluation.settings
    columns = min(_COLUMNS, len(settings))
    rows = -(-len(settings) // columns)
    figure = Figure(figsize=(1.0 + 3.7 * columns, 1.3 + 3.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for i, axes in enumerate(grid.flat):
        if i >= len(settings):
            axes.set_visible(False)
            continue
        _panel(axes, settings[i], evaluation)
        if i % columns == 0:
            axes.set_ylabel("P@K, % (mean over queries)")
    figure.suptitle(_title(evaluation), fontsize=11)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    handles, labels = [*handles[1:], handles[0]], [*labels[1:], labels[0]]  # chance, a line, comes first
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    with replace_file(path) as stream:
        figure.savefig(stream, format="png", dpi=150)


def _title(evaluation: Evaluation) -> str:
    column = evaluation.protocol.exclusion_column
    without = f"gallery without the query's {column}" if column else "gallery: all other images"
    intervals = ", 95 % intervals" if evaluation.protocol.replicates else ""
    return f"Precision at K, {without}{intervals}"


def _shown(setting: SettingResult) -> list[MethodScores]:
    """All methods but chance and the random ranking, which would hide each other: chance is one line."""
    return [method for method in setting.methods[:-1] if method.method != RANDOM] or [setting.methods[0]]


def _panel(axes: Any, setting: SettingResult, evaluation: Evaluation) -> None:
    ks = evaluation.protocol.ks
    measured, chance = _shown(setting), setting.methods[-1]
    for i, method in enumerate(measured):
        shift = 0.1 * (i - (len(measured) - 1) / 2)  # side by side, so that intervals do not hide each other
        _line(axes, method, ks, shift, colour=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)])
    expected = [100 * chance.score(f"P@{k}").micro.value for k in ks]
    across = range(len(ks)) if len(ks) > 1 else (-0.35, 0.35)
    expected = expected if len(ks) > 1 else expected * 2
    axes.plot(across, expected, color="0.45", linestyle="--", linewidth=1.2, label=chance.method)
    for i, k in enumerate(ks):
        interval = measured[0].score(f"P@{k}").micro
        top = interval.high if math.isfinite(interval.high) else interval.value
        axes.annotate(
            f"{100 * interval.value:.1f}",
            (i - 0.1 * (len(measured) - 1) / 2, 100 * top),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_COLOURS[0],
        )
    axes.set_xticks(range(len(ks)), [f"K = {k}" for k in ks])
    axes.set_xlim(-0.4, len(ks) - 0.6)
    axes.set_ylim(0, 104)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"{setting.name} ({setting.queries} queries, {len(setting.classes)} classes)", fontsize=9.5
    )


def _line(
    axes: Any, method: MethodScores, ks: tuple[int, ...], shift: float, *, colour: str, marker: str
) -> None:
    intervals = [method.score(f"P@{k}").micro for k in ks]
    value = [100 * interval.value for interval in intervals]
    known = all(math.isfinite(interval.low) for interval in intervals)
    below = [max(0.0, v - 100 * interval.low) for v, interval in zip(value, intervals, strict=True)]
    above = [max(0.0, 100 * interval.high - v) for v, interval in zip(value, intervals, strict=True)]
    axes.errorbar(
        [i + shift for i in range(len(ks))],
        value,
        yerr=[below, above] if known else None,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.5,
        capsize=3,
        label=method.method,
    )

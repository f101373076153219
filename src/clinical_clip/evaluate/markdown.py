"""An evaluation as a Markdown page that can stand alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clinical_clip.evaluate.report import averages, comparison_lines, headline_metrics, left_out_line
from clinical_clip.evaluate.results import Evaluation, SettingResult

__all__ = ["to_markdown"]

_LISTED = 20


def to_markdown(evaluation: Evaluation, *, plot: str = "") -> str:
    """The page; ``plot`` is the picture's file name, relative to the page."""
    return "\n".join(_lines(evaluation, plot)) + "\n"


def _lines(evaluation: Evaluation, plot: str) -> Iterator[str]:
    protocol = evaluation.protocol
    yield f"# Retrieval on {_text(evaluation.manifest)}"
    yield ""
    yield from _bullets(evaluation)
    yield ""
    if plot:
        yield f"![Precision at K with 95 % intervals]({plot})"
        yield ""
    for setting in evaluation.settings:
        yield from _setting(setting, evaluation)
    if protocol.replicates:
        yield (
            f"In brackets: 95 % percentile bootstrap intervals, {protocol.replicates} resamples. Micro: mean "
            "over queries, resampled by group. Macro: mean over sources, resampled by source. p: two-sided "
            "randomisation test over groups, not corrected for the number of tests."
        )
        yield ""
    if evaluation.rejections:
        yield f"## {len(evaluation.rejections)} files that could not be read"
        yield ""
        for rejection in evaluation.rejections[:_LISTED]:
            yield f"- `{_text(rejection.name)}`: {_text(rejection.what)}"
        if len(evaluation.rejections) > _LISTED:
            yield f"- and {len(evaluation.rejections) - _LISTED} more, all in results.json"


def _bullets(evaluation: Evaluation) -> Iterator[str]:
    protocol = evaluation.protocol
    column = protocol.exclusion_column
    without = f", without rows of the query's `{_text(column)}`" if column else ", without the query itself"
    yield f"- gallery: {protocol.gallery}{without}"
    yield f"- images: {evaluation.images}" + _suffix(" of rows ", evaluation.rows)
    if evaluation.queries:
        yield "- queries:" + _suffix(" ", evaluation.queries)
    if evaluation.ungrouped:
        nothing = f"{evaluation.ungrouped} images have no `{_text(column or '')}`"
        yield f"- {nothing}: they are left out of their own gallery only"
    yield f"- a query counts with at least {protocol.needed} relevant images in its gallery"
    for method in evaluation.methods:
        details = [method.kind, f"{method.width} numbers" if method.width else "", method.preprocessing]
        digest = f"digest {method.digest[:12]}" if method.digest else ""
        yield f"- {_text(method.name)}: {', '.join(_text(d) for d in [*details, digest] if d)}"
    yield f"- seed {protocol.seed}, clinical-clip {evaluation.version}"


def _suffix(before: str, items: tuple[str, ...]) -> str:
    return before + ", ".join(f"`{_text(item)}`" for item in items) if items else ""


def _setting(setting: SettingResult, evaluation: Evaluation) -> Iterator[str]:
    metrics = headline_metrics(evaluation)
    yield f"## {_text(setting.name)}"
    yield ""
    rows = [
        [_text(method.method) if i == 0 else "", average, *cells]
        for method in setting.methods
        for i, (average, cells) in enumerate(averages(method, metrics))
    ]
    yield from _table(["method", "mean", *(f"{metric}, %" for metric in metrics)], rows)
    yield left_out_line(setting, evaluation)
    yield ""
    for line in comparison_lines(setting, metrics):
        yield f"- {_text(line)}"
    yield ""
    first, k = setting.methods[0], f"P@{evaluation.protocol.ks[0]}"
    chance = setting.methods[-1]
    classes = [
        [
            _text(value),
            str(count.gallery),
            str(count.queries),
            str(count.left_out),
            *(f"{100 * m.by_class[value][k]:.1f}" if value in m.by_class else "-" for m in (first, chance)),
        ]
        for value, count in setting.classes.items()
    ]
    heads = [f"{_text(first.method)} {k}, %", f"{_text(chance.method)} {k}, %"]
    yield from _table(["class", "images", "queries", "left out", *heads], classes)
    if len(setting.sources) > 1:
        sources = [
            [_text(source), str(count), *(f"{100 * m.by_source[source][k]:.1f}" for m in (first, chance))]
            for source, count in setting.sources.items()
        ]
        yield from _table(["source of the query", "queries", *heads], sources)


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _text(text: str) -> str:
    """Text that cannot break a table or start markup."""
    for character in ("\\", "|", "`", "<", "*", "[", "_"):
        text = text.replace(character, f"\\{character}") if character != "`" else text.replace("`", "'")
    return " ".join(text.split())

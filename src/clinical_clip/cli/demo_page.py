"""The demo's page: queries, results and figures in one HTML file that stands alone."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from clinical_clip.atomic import replace_file
from clinical_clip.search.sheet import NOT_FOR_DIAGNOSIS, caption_of, labels_of
from clinical_clip.search.thumbnails import as_data_uri, hit_record, thumbnail
from clinical_clip.types import Hit, ImageRecord

if TYPE_CHECKING:
    from clinical_clip.evaluate.results import Evaluation

__all__ = ["Shown", "write_page"]

_SIDE = 224
_STYLE = """
:root { color-scheme: dark; --line: #30363d; --quiet: #9aa4af; --accent: #8ab4f8 }
body { margin: 0 auto; max-width: 78rem; padding: 1rem 1.25rem 3rem; background: #0f1216; color: #e6e9ec;
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p.quiet, figcaption, footer { color: var(--quiet) }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .8rem }
figure { margin: 0 } figure img, .gone { width: 100%; aspect-ratio: 1; background: #000; border-radius: 4px;
  display: block } .gone { display: grid; place-items: center; color: var(--quiet) }
figure.query img { outline: 3px solid var(--accent) } figcaption { font-size: .85rem; margin-top: .3rem;
  overflow-wrap: anywhere }
figcaption b { color: #e6e9ec } .scroll { overflow-x: auto; margin-top: 1.2rem }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left }
td { font-variant-numeric: tabular-nums } img.plot { max-width: 100%; background: #fff; border-radius: 4px }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """One search to show: what was asked, and what came."""

    title: str
    where: Sequence[str]
    records: Sequence[ImageRecord]
    hits: Sequence[Hit]


def write_page(path: Path, searches: Sequence[Shown], evaluation: Evaluation, figures: Path) -> Path:
    """Write the page to ``path``, whole or not at all; ``figures`` is the evaluation's folder."""
    body = "\n".join(_page(searches, evaluation, figures))
    with replace_file(path) as stream:
        stream.write(body.encode())
    return path


def _page(searches: Sequence[Shown], evaluation: Evaluation, figures: Path) -> Iterator[str]:
    yield "<!doctype html><html lang=en><meta charset=utf-8>"
    yield '<meta name=viewport content="width=device-width, initial-scale=1">'
    yield f"<title>Clinical CLIP: demo</title><style>{_STYLE}</style>"
    yield f"<h1>Clinical CLIP: demo</h1><p class=quiet>{evaluation.images} real images, encoded by "
    yield f"{escape(evaluation.methods[0].name)}. Framed: the query. Scores are cosines, no probabilities. "
    yield f"{NOT_FOR_DIAGNOSIS}</p>"
    for search in searches:
        filters = f" <span class=quiet>({escape(', '.join(search.where))})</span>" if search.where else ""
        yield f"<section><h2>{escape(search.title)}{filters}</h2><div class=row>"
        for record in search.records:
            yield _figure(record, f"<b>query</b><br>{escape(record.name)}", css="query")
        for hit in search.hits:
            caption = (
                f"<b>{hit.rank}. &nbsp;{hit.score:.3f}</b> &nbsp;{escape(labels_of(hit.fields))}"
                f"<br>{escape(caption_of(hit))}"
            )
            yield _figure(hit_record(hit), caption)
        yield "</div></section>"
    yield from _measured(evaluation, figures)
    yield f"<footer><p>{NOT_FOR_DIAGNOSIS} Images: see docs/samples.md for origin and licences.</p></footer>"


def _figure(record: ImageRecord, caption: str, *, css: str = "") -> str:
    picture = thumbnail(record, _SIDE)
    image = "<div class=gone>file not found</div>"
    if picture is not None:
        image = f'<img alt="{escape(record.name)}" src="{as_data_uri(picture)}">'
    return f'<figure class="{css}">{image}<figcaption>{caption}</figcaption></figure>'


def _measured(evaluation: Evaluation, figures: Path) -> Iterator[str]:
    from clinical_clip.evaluate.report import left_out_line, show

    yield "<section><h2>Measured: share of the 5 nearest with the query's label, in percent</h2>"
    yield "<p class=quiet>The gallery of a query has no image of its own subject. In brackets: 95 % "
    yield "interval, resampling subjects. Few subjects: read the intervals.</p>"
    for setting in evaluation.settings:
        yield f"<div class=scroll><table><tr><th>{escape(setting.name)}<th>P@5"
        for method in setting.methods:
            yield f"<tr><td>{escape(method.method)}<td>{show(method.score('P@5').micro)}"
        yield f"</table></div><p class=quiet>{escape(left_out_line(setting, evaluation))}</p>"
    for plot in sorted(figures.glob("*.png")):
        data = base64.b64encode(plot.read_bytes()).decode()
        yield f'<img class=plot alt="P@5 of the encoder and its floors" src="data:image/png;base64,{data}">'
    yield "</section>"

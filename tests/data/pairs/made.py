"""Small data sets in the formats of the published ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clinical_clip.data.pairs.pair import Pair, PairSet

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
NO_SHARED = "no ../shared/data beside the checkout: the real files are not tested"


def picture_bytes(seed: int = 0, suffix: str = "jpg", side: int = 12) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"jpg": "JPEG", "png": "PNG", "tif": "TIFF"}[suffix])
    return stream.getvalue()


def write_picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(seed, path.suffix[1:]))
    return path


def write_roco_split(folder: Path, ids: Sequence[str], *, prefix: str = "", article: str = "PMC") -> None:
    """The six files for ``ids``; image ``n`` is figure n of article n // 2."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {one: (f"{article}{100 + number // 2}", f"fig-{number}.jpg") for number, one in enumerate(ids)}
    lines = {
        "captions": [f"{one}\t Axial CT of case {one}." for one in ids],
        "keywords": [f"{one}\t\taxial\tct" for one in ids],
        "cuis": [f"{one}\t\tC0040405\tC0011334" if number else f"{one}\t" for number, one in enumerate(ids)],
        "semtypes": [f"{one}\t\tT060\tDiagnostic Procedure\tT033\tFinding" for one in ids],
        "dlinks": [
            f"{one}\twget -r ftp://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/8d/34/{pmc}.tar.gz"
            f" -P /path/to/Dir\t{name}"
            for one, (pmc, name) in names.items()
        ],
        "licences": ["ROCO_ID,PMC_ID,CC"]
        + [f"{one},{pmc}_{name},CC BY" for one, (pmc, name) in names.items()],
    }
    for name, rows in lines.items():
        (folder / f"{prefix}{name}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_pairs(folder: Path, n: int, *, splits: Sequence[str] = ("train",), suffix: str = "jpg") -> PairSet:
    """``n`` pairs with images below ``folder``, two to an article, splits in turns."""
    return PairSet(
        name="made",
        pairs=tuple(
            Pair(
                pair_id=f"case/{number}.x",
                image=write_picture(folder / f"{number}.{suffix}", number),
                caption=f"Caption of image {number}, naïve Ödem.",
                image_id=f"image {number}",
                article=f"PMC{number // 2}",
                split=splits[number % len(splits)],
                cuis=("C1", f"C{number}"),
                semtypes=(("T060", "Diagnostic Procedure"),),
                keywords=("ct",),
                licence="CC BY",
                labels={"modality": "ct"},
            )
            for number in range(n)
        ),
    )

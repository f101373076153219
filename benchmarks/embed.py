"""Bulk embedding: files → vectors on disk, beside the encoder alone and a plain loop, in one run.

    python -m benchmarks.embed [--images FOLDER] [--count 1500] [--rounds 3] [--precision f32]

The limit is the encoder alone on pixels that are already prepared in memory. The peer is the loop one
would write first: read, decode, resize, encode, one image after the other. "In threads" is our pipeline
with the decoders in threads of this process instead of the jail's processes: what the jail costs. Rounds
alternate them, so that a busy machine slows them alike; the median ratio is reported. Without
``--images`` the files are made: gray JPEGs of blurred noise, 256 pixels on the shorter side.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import numpy as np

from clinical_clip.data.load import load_pixels
from clinical_clip.data.source import open_source
from clinical_clip.embed.bulk import embed_to_file
from clinical_clip.embed.encoders import open_encoder
from clinical_clip.embed.openvino_backend import OpenVinoEncoder
from clinical_clip.embed.prepare import prepare
from clinical_clip.types import ImageRecord


def make_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = rng.integers(0, 256, (256, 256 + number % 100), dtype=np.uint8)
        smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX)
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), smooth, [cv2.IMWRITE_JPEG_QUALITY, 90])


def seconds(run: Callable[[], object]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def plain_loop(records: list[ImageRecord], encoder: OpenVinoEncoder) -> None:
    for record in records:
        encoder.encode_images(encoder.preprocessing.apply(load_pixels(record))[None])


def in_threads(records: list[ImageRecord], encoder: OpenVinoEncoder, batch: int = 64) -> None:
    work = partial(prepare, preprocessing=encoder.preprocessing)
    chunks = [records[start : start + batch] for start in range(0, len(records), batch)]
    with ThreadPoolExecutor(os.cpu_count()) as decoders, ThreadPoolExecutor(1) as encoding:
        ahead = [[decoders.submit(work, record) for record in chunk] for chunk in chunks]
        done = [
            encoding.submit(encoder.encode_images, np.stack([f.result() for f in part])) for part in ahead
        ]
        for future in done:
            future.result()


def encoder_alone(pixels_BHWC: np.ndarray, count: int, encoder: OpenVinoEncoder) -> None:
    for start in range(0, count, len(pixels_BHWC)):
        encoder.encode_images(pixels_BHWC[: min(len(pixels_BHWC), count - start)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    options = parser.parse_args()
    encoder = open_encoder(precision=options.precision)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.images
        if folder is None:
            folder = Path(scratch) / "images"
            folder.mkdir()
            make_images(folder, options.count)
        records = [item for item in open_source(folder) if isinstance(item, ImageRecord)][: options.count]
        prepared = np.stack([encoder.preprocessing.apply(load_pixels(record)) for record in records[:256]])
        encoder.encode_images(prepared[:32])
        rates: dict[str, list[float]] = {}
        for number in range(options.rounds):
            out = Path(scratch) / f"{number}.npz"
            runs: dict[str, Callable[[], object]] = {
                "files to vectors": lambda out=out: embed_to_file(records, encoder, out, source="benchmark"),
                "encoder alone": lambda: encoder_alone(prepared, len(records), encoder),
                "in threads": lambda: in_threads(records, encoder),
                "plain loop": lambda: plain_loop(records, encoder),
            }
            for name, run in runs.items():
                rates.setdefault(name, []).append(len(records) / seconds(run))
                print(f"round {number + 1}: {name:17} {rates[name][-1]:7.1f} images/s", flush=True)
        pairs = list(zip(*rates.values(), strict=True))
        print(f"{len(records)} images, {encoder.name} in {encoder.runs_as}, start of the processes included")
        for place, what in enumerate(list(rates)[1:], start=1):
            print(f"ratio to {what:14} {median(pair[0] / pair[place] for pair in pairs):.2f}")


if __name__ == "__main__":
    main()

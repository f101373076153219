"""Exact search against the memory floor: ``python benchmarks/search.py [--rows 82000,1000000]``.

For each size: the median time of one query, of the same machine reading the matrix's bytes once (the
floor), of peers on the same vectors, and of filtered queries; the time to open the library; and what
rounding to float16 loses against float32. All in one run, blocks of five interleaved; ratios are of
medians. Prints, asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import usearch.index
from numpy.typing import NDArray

from clinical_clip.index import Library
from clinical_clip.index.view import View
from clinical_clip.search import Query, search
from clinical_clip.search.filters import mask_of
from clinical_clip.types import ImageRecord

WIDTH = 512
K = 10
ROUNDS = 60
BLOCK = 5
MODALITIES = ("CT", "MR", "US", "CR", "NM", "PT", "MG", "XA")


def unit_vectors(rows: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Clustered unit vectors, as embeddings are: 200 centres and noise around them, in batches."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((200, WIDTH), dtype=np.float32)
    for start in range(0, rows, 4096):
        size = min(4096, rows - start)
        noise = random.standard_normal((size, WIDTH), dtype=np.float32)
        batch = centres[random.integers(0, 200, size)] + noise
        yield batch / np.linalg.norm(batch, axis=1, keepdims=True)


def build(folder: Path, rows: int) -> float:
    """Fill a library; returns images per second."""
    start = time.perf_counter()
    at = 0
    with Library.create(
        folder, encoder_name="random", width=WIDTH, encoder_digest="-", preprocessing_digest="-"
    ) as library:
        for batch_ND in unit_vectors(rows, 0):
            records = [_record(number) for number in range(at, at + len(batch_ND))]
            library.add(list(zip(records, batch_ND, strict=True)))
            at += len(batch_ND)
    return rows / (time.perf_counter() - start)


def _record(number: int) -> ImageRecord:
    name = f"{number:07d}.png"
    fields = {
        "modality": MODALITIES[number % 8],
        "year": 2000 + number % 25,
        "rows": 512,
        "title": f"Image {number}",
        "organ": ("chest", "head", "abdomen", "pelvis", "knee")[number % 5],
    }
    return ImageRecord(
        image_id=f"sha256:{number:064x}#0",
        path=Path("/nowhere") / name,
        relative_path=name,
        fields=fields,
        study_uid=f"1.2.3.{number // 4}",
    )


def time_all(jobs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each job, in interleaved blocks; the first call of each block does not count.

    It pays for the job before it: OpenBLAS's threads still spin, and resting cores wake up.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS // BLOCK):
        for name, job in jobs.items():
            job()
            for _ in range(BLOCK):
                start = time.perf_counter()
                job()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def overlap(stored_ND: NDArray[np.float16], exact_ND: NDArray[np.float32], queries: int) -> float:
    """Share of the float32 vectors' top 10 that the float16 ones find, over some stored queries."""
    chosen = np.linspace(0, len(exact_ND) - 1, queries).astype(int)
    found = 0
    for at in chosen:
        query = exact_ND[at]
        scores32, scores16 = np.empty(len(exact_ND)), np.empty(len(exact_ND))
        for low in range(0, len(exact_ND), 65536):
            part = slice(low, low + 65536)
            scores32[part] = exact_ND[part] @ query
            scores16[part] = stored_ND[part].astype(np.float32) @ query
        best32, best16 = (set(np.argpartition(-scores, K)[:K].tolist()) for scores in (scores32, scores16))
        found += len(best32 & best16)
    return found / (K * queries)


def run(rows: int, folder: Path) -> None:
    """Measure one size and print it."""
    rate = build(folder, rows)
    start = time.perf_counter()
    library = Library.open(folder)
    opened_ms = 1e3 * (time.perf_counter() - start)
    view: View = library.snapshot()  # type: ignore[assignment]
    matrix_ND = view.mapped_ND
    words = np.asarray(matrix_ND).reshape(-1).view(np.uint64)
    cores = len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(cores)
    parts = np.array_split(words, cores)
    query_D = next(unit_vectors(1, 7))[0].astype(np.float64)
    query_D /= np.linalg.norm(query_D)
    query_QD = query_D[None, :]
    expressions = {
        "1 of 8": ["modality=CT"],
        "7 of 8": ["modality!=CT"],
        "1 of 200": ["modality=CT", "year=2000"],
    }
    first_filter = time.perf_counter()
    masks = {name: mask_of(library, view, where) for name, where in expressions.items()}
    first_filter_ms = 1e3 * (time.perf_counter() - first_filter)

    def ours(mask: NDArray[np.bool_] | None = None) -> object:
        return view.search(query_QD, K, mask=mask, tie_names=library.names_of)

    def filtered(name: str) -> Callable[[], object]:
        return lambda: ours(mask_of(library, view, expressions[name]))

    query16, query32 = query_D.astype(np.float16), query_D.astype(np.float32)
    jobs: dict[str, Callable[[], object]] = {
        "memory floor (bytes read once)": lambda: list(pool.map(np.max, parts)),
        "exact search": ours,
        **{f"exact search, filter {name}": filtered(name) for name in masks},
        "filter alone, 7 of 8": lambda: mask_of(library, view, expressions["7 of 8"]),
        "search() with rows, no filter": lambda: search(library, Query(vectors=query_D, k=K)),
        "search() by study": lambda: search(library, Query(vectors=query_D, k=K, group_by="study")),
    }
    peers: dict[str, Callable[[], object]] = {
        "peer: usearch exact": lambda: usearch.index.search(
            matrix_ND, query16, K, usearch.index.MetricKind.Cos, exact=True, threads=cores
        ),
    }
    exact_ND = None
    if rows <= 200_000:
        exact_ND = np.concatenate(list(unit_vectors(rows, 0)))
        vectors_ND = exact_ND

        def numpy_peer() -> object:
            scores = vectors_ND @ query32
            return np.argpartition(scores, -K)[-K:]

        peers["peer: numpy float32"] = numpy_peer
    times = time_all(jobs) | time_all(peers)  # apart: OpenBLAS's threads spin long after their work
    middle = {name: statistics.median(values) for name, values in times.items()}
    floor = middle["memory floor (bytes read once)"]
    plain = middle["exact search"]
    print(f"\n{rows} x {WIDTH} float16 ({matrix_ND.nbytes / 1e6:.0f} MB), {cores} cores, median of {ROUNDS}")
    print(f"  {'':34} {'p50 ms':>8} {'p90 ms':>8} {'x floor':>8} {'x search':>8}")
    for name, values in times.items():
        p50, p90 = middle[name], statistics.quantiles(values, n=10)[-1]
        print(f"  {name:34} {p50:8.2f} {p90:8.2f} {p50 / floor:8.2f} {p50 / plain:8.2f}")
    batch_QD = np.concatenate(list(unit_vectors(256, 9))).astype(np.float64)
    start = time.perf_counter()
    view.search(batch_QD, K, tie_names=library.names_of)
    print(f"  256 queries at once: {1e3 * (time.perf_counter() - start) / 256:.2f} ms a query")
    print(f"  open: {opened_ms:.0f} ms; first use of two filter columns: {first_filter_ms:.0f} ms")
    print(f"  filled at {rate:.0f} images/s, a commit every 4096")
    if exact_ND is not None:
        share = overlap(matrix_ND, exact_ND, 100)
        print(f"  float16 against float32: top-10 overlap {share:.4f} over 100 queries")
    library.close()


def main() -> None:
    """Read the options and run every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="82000,1000000", help="sizes, separated by commas")
    parser.add_argument("--folder", default=None, help="where to build (needs 2.5 kB a row)")
    options = parser.parse_args()
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            run(rows, Path(folder) / "library")


if __name__ == "__main__":
    main()

"""Evaluation at the size of ROCO: 8,179 queries × 81,807 gallery × 512, all metrics, several label settings.

    python -m benchmarks.evaluate [--queries 8179] [--gallery 81807] [--width 512]

The limit is the matrix product alone, in float32 blocks of the same size; the peer is what one would
write first, numpy's argpartition over each block, for P@K only. Vectors and labels are made.
"""

from __future__ import annotations

import argparse
import resource
from time import perf_counter

import numpy as np

from clinical_clip.evaluate.protocol import GalleryRule, Protocol
from clinical_clip.evaluate.run import evaluate_table
from clinical_clip.evaluate.table import Table, parse_labels

KS = (5, 10, 50)


def made(count: int, width: int) -> tuple[list[str], np.ndarray, list[dict[str, str]]]:
    rng = np.random.default_rng(0)
    organ_N = rng.integers(0, 8, count)
    modality_N = rng.integers(0, 5, count)
    centres = rng.normal(size=(40, width)).astype(np.float32)
    vectors_ND = centres[organ_N * 5 + modality_N] + rng.normal(size=(count, width)).astype(np.float32) * 2
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    names = [f"image{number:06d}" for number in range(count)]
    fields = [
        {"organ": f"o{o}", "modality": f"m{m}", "split_group": f"g{n // 3}"}
        for n, (o, m) in enumerate(zip(organ_N, modality_N, strict=True))
    ]
    return names, vectors_ND, fields


def product_alone(vectors_ND: np.ndarray, queries: int, block: int = 256) -> float:
    start = perf_counter()
    for first in range(0, queries, block):
        vectors_ND[first : min(first + block, queries)] @ vectors_ND.T
    return perf_counter() - start


def argpartition_peer(vectors_ND: np.ndarray, queries: int, block: int = 256) -> float:
    start = perf_counter()
    for first in range(0, queries, block):
        score_QN = vectors_ND[first : min(first + block, queries)] @ vectors_ND.T
        np.argpartition(-score_QN, max(KS), axis=1)[:, : max(KS)]
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=8179)
    parser.add_argument("--gallery", type=int, default=81807)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    names, vectors_ND, fields = made(options.gallery, options.width)
    table = Table.of(zip(names, fields, strict=True))
    query_N = np.zeros(len(table), dtype=bool)
    query_N[: options.queries] = True
    limit_s = product_alone(vectors_ND, options.queries)
    peer_s = argpartition_peer(vectors_ND, options.queries)
    for labels in ("modality+organ", "modality,organ,modality+organ"):
        protocol = Protocol(
            labels=parse_labels(labels), gallery=GalleryRule.OTHER_GROUP, ks=KS, replicates=2000
        )
        start = perf_counter()
        evaluate_table(table, {"made": vectors_ND}, protocol, query_N=query_N)
        ours_s = perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{options.queries:,} × {options.gallery:,} × {options.width}, labels {labels}: {ours_s:.1f} s")
        print(
            f"  product alone (limit) {limit_s:.1f} s, ratio {ours_s / limit_s:.1f}; "
            f"argpartition (peer) {peer_s:.1f} s, ratio {ours_s / peer_s:.1f}; peak memory {peak:.2f} GB"
        )


if __name__ == "__main__":
    main()

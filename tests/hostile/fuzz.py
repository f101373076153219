"""Fuzz the header and pixel paths for as long as wanted, in the decoder jail.

    python -m tests.hostile.fuzz --minutes 60 --seed 1 --findings /tmp/findings

Each case is a good file with seeded damage. It has to end in pixels or a typed rejection, within two
seconds and 300 MB. What crashes, hangs, outgrows its memory or raises anything else is a finding: it is
counted by kind and kept under ``--findings`` by its digest.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.hostile.corpus import corpus
from tests.hostile.mutate import mutate
from tests.hostile.target import HOSTILE_LIMITS, read_both

from clinical_clip.data.jail import Jail
from clinical_clip.errors import DecoderFailed, ImageRejected

_FILES = 128
_REPORT_S = 60.0


def cases(folder: Path, seed: int, until: float) -> Iterator[Path]:
    """Damaged files, one after the other, in a ring of file names."""
    files = corpus()
    contents = [data for _, data in files]
    number = 0
    while time.monotonic() < until:
        rng = random.Random(seed * 1_000_003 + number)
        name, data = rng.choice(files)
        path = folder / f"{number % _FILES}-{name}"
        for old in folder.glob(f"{number % _FILES}-*"):
            old.unlink()
        path.write_bytes(mutate(data, rng, contents))
        yield path
        number += 1


def main() -> None:
    """Run, print a line a minute, and a summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    begun = reported = time.monotonic()
    with (
        TemporaryDirectory() as folder,
        Jail(read_both, options.workers, HOSTILE_LIMITS, lookahead=32) as jail,
    ):
        for path, result in jail.imap(cases(Path(folder), options.seed, begun + 60 * options.minutes)):
            counts["cases"] += 1
            if isinstance(result, DecoderFailed):
                keep(options.findings, path, result, counts)
            elif isinstance(result, ImageRejected):
                counts[f"rejected as {result.code}"] += 1
            else:
                counts["pixels"] += 1
            if time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                print(f"{(reported - begun) / 60:6.1f} min {dict(counts)}", flush=True)
    print(f"done after {(time.monotonic() - begun) / 60:.1f} min: {dict(counts)}", flush=True)


def keep(folder: Path, path: Path, failure: DecoderFailed, counts: Counter[str]) -> None:
    """Count a finding and keep its file."""
    kind = f"FINDING {failure.what} {path.name.split('-', 1)[1]}"
    counts["findings"] += 1
    counts[kind] += 1
    folder.mkdir(parents=True, exist_ok=True)
    data = path.read_bytes()
    kept = folder / f"{hashlib.sha256(data).hexdigest()[:16]}-{path.name.split('-', 1)[1]}"
    kept.write_bytes(data)
    print(f"{kind}: {kept.name}", flush=True)


if __name__ == "__main__":
    main()

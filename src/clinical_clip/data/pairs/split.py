"""Splits that cut no article, study or patient apart."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clinical_clip.atomic import replace_file
from clinical_clip.data.pairs.pair import SPLITS, Pair, PairSet, split_name
from clinical_clip.data.table import read_rows
from clinical_clip.errors import ManifestError, OptionError

__all__ = [
    "Overlap",
    "apply_splits",
    "drop_shared",
    "group_of",
    "group_split",
    "overlaps",
    "read_splits",
    "write_splits",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """What two splits share, by one key.

    Attributes:
        first, second: the splits.
        shared: keys that both have.
        first_pairs, second_pairs: pairs of each split under those keys.
        second_total: pairs of the second split.
    """

    first: str
    second: str
    shared: int
    first_pairs: int
    second_pairs: int
    second_total: int


def group_of(pair: Pair) -> str:
    """What must not be cut apart: the article, study or patient; else the image; else the pair itself."""
    return pair.article or pair.image_id or pair.pair_id


def group_split(pairs: PairSet, *, validation: float = 0.1, test: float = 0.1, seed: int = 42) -> PairSet:
    """A new split by a hash of each group, whatever split the pairs had.

    A group's place depends on its name and the seed alone: adding rows moves no other row, and a larger
    share of one split takes nothing from another but ``train``. The shares are met on average, by groups.

    Args:
        pairs: to split.
        validation, test: shares of the groups, each in [0, 1), together below 1.
        seed: another seed, another split.

    Raises:
        OptionError: shares outside their range.
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise OptionError(
            "shares outside [0, 1), or nothing left to train on",
            where="validation, test",
            hint="use two shares below 1 together",
        )

    def place(pair: Pair) -> str:
        sha = hashlib.sha256(f"{seed}\0{group_of(pair)}".encode("utf-8", "surrogatepass"))
        at = int.from_bytes(sha.digest()[:8], "big") / 2**64
        if at < test:
            return "test"
        return "validation" if at >= 1 - validation else "train"

    return replace(pairs, pairs=tuple(replace(pair, split=place(pair)) for pair in pairs))


def drop_shared(pairs: PairSet, *, keep: Sequence[str] = ("test", "validation", "train")) -> PairSet:
    """The split as it is, without pairs whose group also stands in a split that ``keep`` names earlier.

    The published test split stays whole, so that its numbers can be compared; training loses a part.
    """
    rank = {split_name(name): number for number, name in enumerate(keep)}
    best: dict[str, int] = {}
    for pair in pairs:
        place = rank.get(pair.split, len(rank))
        best[group_of(pair)] = min(place, best.get(group_of(pair), place))
    kept = [pair for pair in pairs if rank.get(pair.split, len(rank)) == best[group_of(pair)]]
    return replace(pairs, pairs=tuple(kept))


def overlaps(pairs: PairSet, keys: Mapping[str, str]) -> list[Overlap]:
    """What each two splits share.

    Args:
        pairs: with their splits.
        keys: by pair id, such as the article or the image's digest; pairs with an empty or no key share
            nothing.
    """
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    totals: dict[str, int] = defaultdict(int)
    for pair in pairs:
        totals[pair.split] += 1
        if key := keys.get(pair.pair_id, ""):
            counts[pair.split][key] += 1
    names = [name for name in (*SPLITS, *sorted(set(totals) - set(SPLITS))) if name in totals]
    found = []
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            shared = counts[first].keys() & counts[second].keys()
            found.append(
                Overlap(
                    first=first,
                    second=second,
                    shared=len(shared),
                    first_pairs=sum(counts[first][key] for key in shared),
                    second_pairs=sum(counts[second][key] for key in shared),
                    second_total=totals[second],
                )
            )
    return found


def write_splits(pairs: PairSet, path: Path) -> None:
    """Write ``pair_id,split`` as CSV, whole or not at all. No group: it may be a patient's id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pair_id", "split"])
    writer.writerows((pair.pair_id, pair.split) for pair in pairs)
    with replace_file(path) as stream:
        stream.write(text.getvalue().encode())


def read_splits(path: Path) -> dict[str, str]:
    """Splits by pair id, of a file that :func:`write_splits` wrote.

    Raises:
        ManifestError: unreadable, a row without both, or an id in two splits.
    """
    splits: dict[str, str] = {}
    for line, cells in read_rows(path, "pair_id"):
        pair_id, split = cells.get("pair_id", ""), split_name(cells.get("split", ""))
        where = f"{path.name}, line {line}"
        if not pair_id or not split:
            raise ManifestError("a row without id and split", where=where, hint="fill both columns")
        if splits.setdefault(pair_id, split) != split:
            raise ManifestError("an id in two splits", where=where, hint="keep one of the rows")
    return splits


def apply_splits(pairs: PairSet, splits: Mapping[str, str]) -> PairSet:
    """``pairs`` with these splits; pairs that have none are left out.

    Raises:
        ManifestError: not one pair has a split there.
    """
    chosen = tuple(replace(pair, split=splits[pair.pair_id]) for pair in pairs if pair.pair_id in splits)
    if not chosen:
        raise ManifestError("splits of other pairs", where=pairs.name, hint="make them with `data split`")
    return replace(pairs, pairs=chosen)

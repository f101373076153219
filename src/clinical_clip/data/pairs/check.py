"""What a data set of pairs is like, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clinical_clip.data.pairs.digests import content_digests, look_alikes, pixel_hashes
from clinical_clip.data.pairs.pair import Pair, PairSet, RowProblem
from clinical_clip.data.pairs.split import Overlap, overlaps
from clinical_clip.data.pairs.tokens import tower_counters

__all__ = ["CheckReport", "Lengths", "Repeats", "Truncation", "check_pairs"]

Progress = Callable[[str, int, int], None]
_CUT_APART = ("article", "image", "similar image")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Words a caption, over the captioned pairs."""

    minimum: int
    p5: int
    median: int
    mean: float
    p95: int
    maximum: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Truncation:
    """Captions longer than a tower takes.

    Attributes:
        tower: whose.
        limit: tokens, the start and end ones among them.
        truncated: captions that lose their end.
        share: of the captioned pairs, in [0, 1].
        lost: share of all tokens that is cut off, in [0, 1].
        exact: counted with the tower's own vocabulary.
        note: how it was counted.
    """

    tower: str
    limit: int
    truncated: int
    share: float
    lost: float
    exact: bool
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """What occurs more than once.

    Attributes:
        groups: values that several pairs have.
        pairs: pairs that have one of them.
        examples: for the largest groups, the ids of up to three of their pairs.
    """

    groups: int
    pairs: int
    examples: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All that ``data check`` says. ``leaks`` holds, by what is shared, every two splits' overlap."""

    name: str
    digest: str
    pairs: int
    found: int
    missing: tuple[str, ...]
    uncaptioned: int
    synthetic: int
    splits: Mapping[str, int]
    lengths: Lengths | None
    truncation: tuple[Truncation, ...]
    same_captions: Repeats
    same_images: Repeats | None
    similar_images: Repeats | None
    articles: Repeats
    leaks: Mapping[str, tuple[Overlap, ...]]
    without_cuis: Mapping[str, int]
    licences: Mapping[str, int]
    problems: tuple[RowProblem, ...] = field(repr=False)

    @property
    def clean(self) -> bool:
        """Nothing missing, no bad row, no article, patient or image in two splits. Equal captions are no
        leak by themselves: many images are captioned "Chest radiograph".
        """
        leaking = any(one.shared for name, each in self.leaks.items() if name in _CUT_APART for one in each)
        return not (self.missing or self.problems or leaking)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "clean": self.clean}


def check_pairs(
    pairs: PairSet,
    *,
    hash_images: bool = True,
    compare_pixels: bool = False,
    bert: Path | None = None,
    tower_limits: bool = True,
    progress: Progress | None = None,
) -> CheckReport:
    """Look through a data set opened with ``require_images=False``.

    Args:
        pairs: what to check.
        hash_images: read every image to find equal files.
        compare_pixels: decode every image to find look-alikes, too.
        bert: folder or ``vocab.txt`` of the BERT text tower.
        tower_limits: count tokens.
        progress: is told what is read, how many are done, and of how many.

    Raises:
        ManifestError: no vocabulary at ``bert``.
    """
    problems = list(pairs.problems)
    hash_images = hash_images and any(pair.has_image for pair in pairs)
    digests: dict[str, str] = {}
    similar: dict[str, str] = {}
    if hash_images:
        digests = content_digests(pairs, problems, _named(progress, "reading images"))
    if compare_pixels:
        similar = look_alikes(pixel_hashes(pairs, problems, _named(progress, "decoding images")))
    captions = {pair.pair_id: _normal(pair.caption) for pair in pairs}
    articles = {pair.pair_id: pair.article for pair in pairs}
    by_key = {"article": articles, "caption": captions}
    if hash_images:
        by_key["image"] = digests
    if compare_pixels:
        by_key["similar image"] = similar
    return CheckReport(
        name=pairs.name,
        digest=pairs.digest,
        pairs=len(pairs),
        found=sum(pair.has_image for pair in pairs),
        missing=pairs.missing,
        uncaptioned=pairs.uncaptioned + sum(not pair.caption for pair in pairs),
        synthetic=pairs.n_synthetic,
        splits={name: sum(pair.split == name for pair in pairs) for name in pairs.splits},
        lengths=_lengths(pairs),
        truncation=_truncation(pairs, bert) if tower_limits else (),
        same_captions=_repeats(captions),
        same_images=_repeats(digests) if hash_images else None,
        similar_images=_repeats(similar) if compare_pixels else None,
        articles=_repeats(articles),
        leaks={name: tuple(overlaps(pairs, keys)) for name, keys in by_key.items()},
        without_cuis=_without_cuis(pairs),
        licences=dict(Counter(pair.licence or "not stated" for pair in pairs).most_common()),
        problems=tuple(problems),
    )


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)


def _normal(caption: str) -> str:
    """A caption as compared: case, white space and closing stops aside."""
    return " ".join(caption.lower().split()).rstrip(" .")


def _without_cuis(pairs: Sequence[Pair] | PairSet) -> dict[str, int]:
    """Pairs without a concept, by split, where the data set has concepts at all."""
    if not any(pair.cuis for pair in pairs):
        return {}
    return dict(Counter(pair.split for pair in pairs if not pair.cuis))


def _lengths(pairs: PairSet) -> Lengths | None:
    words = sorted(len(pair.caption.split()) for pair in pairs if pair.caption)
    if not words:
        return None

    def at(share: float) -> int:
        return words[min(len(words) - 1, round(share * (len(words) - 1)))]

    return Lengths(
        minimum=words[0],
        p5=at(0.05),
        median=at(0.5),
        mean=round(sum(words) / len(words), 1),
        p95=at(0.95),
        maximum=words[-1],
    )


def _truncation(pairs: PairSet, bert: Path | None) -> tuple[Truncation, ...]:
    captions = [pair.caption for pair in pairs if pair.caption]
    found = []
    for counter in tower_counters(bert):
        tokens = counter.count(captions)
        for limit in counter.limits:
            over = [one - limit for one in tokens if one > limit]
            found.append(
                Truncation(
                    tower=counter.tower,
                    limit=limit,
                    truncated=len(over),
                    share=len(over) / max(1, len(tokens)),
                    lost=sum(over) / max(1, sum(tokens)),
                    exact=counter.exact,
                    note=counter.note,
                )
            )
    return tuple(found)


def _repeats(keys: Mapping[str, str]) -> Repeats:
    groups: dict[str, list[str]] = {}
    for pair_id, key in keys.items():
        if key:
            groups.setdefault(key, []).append(pair_id)
    repeated = sorted((ids for ids in groups.values() if len(ids) > 1), key=len, reverse=True)
    return Repeats(
        groups=len(repeated),
        pairs=sum(map(len, repeated)),
        examples=tuple(tuple(ids[:3]) for ids in repeated[:5]),
    )

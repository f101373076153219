"""What an evaluation found. Shares are fractions in [0, 1] here; reports print them in percent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clinical_clip.evaluate.bootstrap import Interval
from clinical_clip.evaluate.protocol import Protocol
from clinical_clip.types import Rejection

__all__ = [
    "ClassCount",
    "Comparison",
    "Evaluation",
    "LeftOut",
    "MethodInfo",
    "MethodScores",
    "Score",
    "SettingResult",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodInfo:
    """What ranks the gallery; digests and preprocessing are those of the encoder, where it is one."""

    name: str
    kind: str
    width: int = 0
    digest: str = ""
    preprocessing: str = ""
    preprocessing_digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One metric: mean over queries (micro) and mean over sources of the means within (macro)."""

    metric: str
    micro: Interval
    macro: Interval | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodScores:
    """All metrics of one method; breakdowns are plain means of each metric by source and by class."""

    method: str
    scores: tuple[Score, ...]
    by_source: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    by_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def score(self, metric: str) -> Score:
        """The score named ``metric``."""
        return next(score for score in self.scores if score.metric == metric)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Difference of two methods over the same queries, and the p of its paired randomisation test."""

    metric: str
    method: str
    baseline: str
    micro: Interval
    micro_p: float
    macro: Interval | None = None
    macro_p: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Rows that are not queries of a setting, and why.

    Attributes:
        no_label: the label (or a part of a combined one) is empty: neither query nor gallery.
        empty_gallery: every labelled row is of the query's own group or source.
        few_relevant: fewer relevant gallery items than the protocol needs; still in the gallery of others.
    """

    no_label: int
    empty_gallery: int
    few_relevant: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """Rows, queries and left-out queries of one class."""

    gallery: int
    queries: int
    left_out: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingResult:
    """One label setting.

    Attributes:
        name: the columns, joined by ``+``.
        gallery: labelled rows.
        queries: queries that count.
        clusters: groups that the queries form, the unit of resampling.
        sources: number of queries by source, where the manifest names sources.
        left_out: queries that do not count.
        classes: counts by class.
        methods: what was measured, in the order of the report: the method, then its baselines, then chance.
        comparisons: the first method against each baseline.
    """

    name: str
    gallery: int
    queries: int
    clusters: int
    sources: Mapping[str, int]
    left_out: LeftOut
    classes: Mapping[str, ClassCount]
    methods: tuple[MethodScores, ...]
    comparisons: tuple[Comparison, ...]

    def method(self, name: str) -> MethodScores:
        """The scores of the method called ``name``."""
        return next(method for method in self.methods if method.method == name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything a report shows.

    Attributes:
        manifest: the manifest's file name.
        rows: the row selection, as given.
        queries: the query selection, as given.
        images: rows evaluated, before labels are looked at.
        ungrouped: rows whose excluded column is empty: only the image itself leaves their gallery.
        protocol: what was measured.
        methods: what ranked the gallery.
        settings: one result a label setting.
        rejections: files that could not be read, and why.
        version: of this package.
    """

    manifest: str
    rows: tuple[str, ...]
    queries: tuple[str, ...]
    images: int
    ungrouped: int
    protocol: Protocol
    methods: tuple[MethodInfo, ...]
    settings: tuple[SettingResult, ...]
    rejections: tuple[Rejection, ...]
    version: str

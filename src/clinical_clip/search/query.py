"""What can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clinical_clip.errors import OptionError, QueryError, VectorError
from clinical_clip.index import Library
from clinical_clip.index.vectors import as_unit_queries
from clinical_clip.types import Patient

__all__ = ["Query", "query_vector"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One question: images like these, of those that pass the filters.

    Attributes:
        image_ids: stored images to ask by.
        vectors: vectors to ask by, (width,) or (Q, width), of any length above 0 (a query file's, say).
        weights: one for each of ``image_ids`` and then of ``vectors``; negative ones push away. None: all 1.
        where: filter expressions, all of which must hold (see ``clinical_clip.search.filters``).
        k: how many results, at least 1; more than there are gives all there are.
        group_by: ``"study"`` shows the best image of each study.
        exclude_self: leave the images asked by out of the results.
        exclude_same_patient: leave out every image of the patients (and studies) of the images asked by.
        patients, study_uids: of whom and of what study the ``vectors`` are, for ``exclude_same_patient``.
        exclude_ids: further images to leave out (a query file that is stored too).

    Raises:
        OptionError: ``k`` below 1, or another number of weights than of images and vectors.
        QueryError: nothing to ask by.
    """

    image_ids: Sequence[str] = ()
    vectors: ArrayLike | None = field(default=None, repr=False)
    weights: Sequence[float] | None = None
    where: Sequence[str] = ()
    k: int = 10
    group_by: Literal["study"] | None = None
    exclude_self: bool = True
    exclude_same_patient: bool = False
    patients: Sequence[Patient] = ()
    study_uids: Sequence[str] = ()
    exclude_ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.k < 1:
            raise OptionError(f"k is {self.k}", where="k", hint="ask for at least one image")
        if self.group_by not in (None, "study"):
            raise OptionError("results are grouped by study only", where="group_by", hint="use 'study'")
        if not self.image_ids and self.vectors is None:
            raise QueryError("nothing to ask by", where="query", hint="give an image file or a stored image")


def query_vector(library: Library, query: Query) -> NDArray[np.float64]:
    """The unit vector (width,) that stands for the query: the weighted mean of all that is asked by.

    Each part counts by its direction alone, whatever its length.

    Raises:
        UnknownImageError: an id that is not stored.
        VectorError: wrong width, NaN, length 0, or parts that cancel out.
        OptionError: another number of weights than parts, or weights that are not finite.
    """
    width = library.made.width
    parts: list[NDArray[np.float64]] = []
    if query.image_ids:
        parts.append(as_unit_queries(library.vectors_of(query.image_ids), width))
    if query.vectors is not None:
        parts.append(as_unit_queries(query.vectors, width))
    parts_QD = np.concatenate(parts)
    weights_Q = np.ones(len(parts_QD)) if query.weights is None else np.asarray(query.weights, np.float64)
    if weights_Q.shape != (len(parts_QD),) or not np.isfinite(weights_Q).all():
        raise OptionError(
            f"{weights_Q.size} weights for {len(parts_QD)} images",
            where="weights",
            hint="give one finite weight for each image",
        )
    mean_D: NDArray[np.float64] = weights_Q @ parts_QD
    length = float(np.linalg.norm(mean_D))
    if length <= 1e-9 * max(1.0, float(np.abs(weights_Q).sum())):
        raise VectorError("the images asked by cancel out", where="weights", hint="change the weights")
    return mean_D / length

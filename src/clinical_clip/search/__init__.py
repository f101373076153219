"""Queries over an index: by image, id, vector and mixes; filters, grouping, and how results are drawn."""

from __future__ import annotations

from clinical_clip.search.facets import Facet, facets
from clinical_clip.search.filters import matching_ids
from clinical_clip.search.query import Query
from clinical_clip.search.run import SearchResult, search

__all__ = ["Facet", "Query", "SearchResult", "facets", "matching_ids", "search"]

"""The index: a catalogue that holds everything, and a vector engine that follows it."""

from __future__ import annotations

from clinical_clip.index.changes import AddResult
from clinical_clip.index.library import Library
from clinical_clip.index.lookup import LibraryInfo
from clinical_clip.index.protocol import Matches, Position, VectorIndex
from clinical_clip.index.verify import VerifyReport

__all__ = ["AddResult", "Library", "LibraryInfo", "Matches", "Position", "VectorIndex", "VerifyReport"]

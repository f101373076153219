"""What became of the files of a source."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SourceCounts"]


@dataclass(kw_only=True, slots=True)
class SourceCounts:
    """Counters of one pass over a source. Nothing goes missing between them.

    Each file (or row of a manifest) is ignored, rejected, a duplicate, or gives images; an image of it is
    yielded or left out by the frame policy.

    Attributes:
        files: files or manifest rows met so far.
        ignored: passed over by name (hidden, tables, texts).
        rejected: rejections yielded, those for links, folders and missing files included.
        duplicates: DICOM files that repeat another's SOP Instance UID and bytes.
        images: records yielded.
        left_out: frames, slices and pages that the frame policy leaves out.
    """

    files: int = 0
    ignored: int = 0
    rejected: int = 0
    duplicates: int = 0
    images: int = 0
    left_out: int = 0

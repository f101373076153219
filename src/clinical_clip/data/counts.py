"""What became of the files of a source."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SourceCounts"]


@dataclass(kw_only=True, slots=True)
class SourceCounts:
    """Counters of one pass over a source. Once it has ended, nothing is missing between them:
    ``files == used + ignored + duplicates + rejected``, and the images in the used files are
    ``images + left_out``.

    Attributes:
        files: files (links and pipes among them), or rows of a manifest.
        used: files whose images are yielded or left out by the frame policy.
        ignored: files passed over by name (hidden, tables, texts).
        duplicates: DICOM files that repeat another's SOP Instance UID and bytes.
        rejected: files with a rejection.
        missing: rejections of what is no file: a folder that cannot be read, a DICOMDIR that is damaged
            or references what is not there.
        images: records yielded.
        left_out: frames, slices and pages that the frame policy leaves out.
    """

    files: int = 0
    used: int = 0
    ignored: int = 0
    duplicates: int = 0
    rejected: int = 0
    missing: int = 0
    images: int = 0
    left_out: int = 0

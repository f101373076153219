"""The whole tree of errors. Each one says what went wrong, where, and what to do.

::

    ClinicalClipError
    ├── InputError                    what the user gave cannot be used
    │   ├── SourceError               a folder, file or archive that cannot be read as a source of images
    │   ├── ManifestError             a manifest with missing columns, bad rows, paths outside its root
    │   ├── QueryError                a query that cannot be answered
    │   │   ├── FilterError           a --where expression that does not parse or names no field
    │   │   ├── UnknownImageError     an id or UID that is not in the index
    │   │   └── VectorError           NaN, zero or wrong-width vectors
    │   └── OptionError               an option outside its range (k = 0, a negative limit)
    ├── ImageRejected                 one image that will not be indexed; the run goes on
    │   ├── UnsupportedImage          a format, transfer syntax or SOP class that is not read
    │   ├── CorruptImage              truncated, damaged or inconsistent bytes
    │   ├── NoPixels                  a valid file that holds no image (report, presentation state)
    │   ├── LimitExceeded             more bytes, pixels, frames, nesting or output than allowed
    │   └── DecoderFailed             the decoder process died or ran out of time or memory
    ├── EncoderError                  an encoder is missing, damaged or lacks an ability
    │   ├── EncoderNotFound           no encoder of that name or folder
    │   ├── WeightsError              weights are missing or their digest differs
    │   └── TextUnsupported           the encoder has no text tower
    ├── StoreError                    the index on disk
    │   ├── IndexNotFound             nothing there
    │   ├── IndexMismatch             made by another encoder, preprocessing or schema version
    │   ├── IndexCorrupt              checksums or counts disagree; says how to rebuild
    │   └── IndexBusy                 another process is writing
    ├── TrainingError                 a run that cannot go on: a non-finite loss, no usable checkpoint
    ├── EvaluationError               a protocol that its data cannot support
    ├── FetchError                    a download failed or its digest differs
    └── MissingDependency             an optional package is needed; names the extra
"""

from __future__ import annotations

__all__ = [
    "ClinicalClipError",
    "CorruptImage",
    "DecoderFailed",
    "EncoderError",
    "EncoderNotFound",
    "EvaluationError",
    "FetchError",
    "FilterError",
    "ImageRejected",
    "IndexBusy",
    "IndexCorrupt",
    "IndexMismatch",
    "IndexNotFound",
    "InputError",
    "LimitExceeded",
    "ManifestError",
    "MissingDependency",
    "NoPixels",
    "OptionError",
    "QueryError",
    "SourceError",
    "StoreError",
    "TextUnsupported",
    "TrainingError",
    "UnknownImageError",
    "UnsupportedImage",
    "VectorError",
    "WeightsError",
]


class ClinicalClipError(Exception):
    """Root of the tree.

    Args:
        what: what went wrong, one sentence without a trailing full stop.
        where: the file, row, option or component; never a patient's data.
        hint: what to do about it.

    >>> str(ClinicalClipError("no such folder", where="scans/", hint="check the path"))
    'no such folder (scans/): check the path'
    """

    code = "error"
    exit_status = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        hint = f": {self.hint}" if self.hint else ""
        return f"{self.what}{where}{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint)


def _rebuild(kind: type[ClinicalClipError], what: str, where: str, hint: str) -> ClinicalClipError:
    return kind(what, where=where, hint=hint)


class InputError(ClinicalClipError):
    """What the user gave cannot be used."""

    code = "input"
    exit_status = 2


class SourceError(InputError):
    """A folder, file or archive that cannot be read as a source of images."""

    code = "source"


class ManifestError(InputError):
    """A manifest with missing columns, bad rows or paths outside its root."""

    code = "manifest"


class QueryError(InputError):
    """A query that cannot be answered."""

    code = "query"


class FilterError(QueryError):
    """A ``--where`` expression that does not parse or names no field."""

    code = "filter"


class UnknownImageError(QueryError):
    """An id or UID that is not in the index."""

    code = "unknown-image"


class VectorError(QueryError):
    """A vector with NaN, of zero length or of the wrong width."""

    code = "vector"


class OptionError(InputError):
    """An option outside its range."""

    code = "option"


class ImageRejected(ClinicalClipError):
    """One image that will not be indexed; the run goes on and the report names it."""

    code = "rejected"


class UnsupportedImage(ImageRejected):
    """A format, transfer syntax or SOP class that is not read."""

    code = "unsupported"


class CorruptImage(ImageRejected):
    """Truncated, damaged or inconsistent bytes."""

    code = "corrupt"


class NoPixels(ImageRejected):
    """A valid file that holds no image to index (report, presentation state)."""

    code = "no-pixels"


class LimitExceeded(ImageRejected):
    """More bytes, pixels, frames, nesting or decompressed output than allowed."""

    code = "limit"


class DecoderFailed(ImageRejected):
    """The decoder process died, or ran out of time or memory."""

    code = "decoder"


class EncoderError(ClinicalClipError):
    """An encoder is missing, damaged or lacks an ability."""

    code = "encoder"


class EncoderNotFound(EncoderError):
    """No encoder of that name or folder."""

    code = "encoder-not-found"
    exit_status = 2


class WeightsError(EncoderError):
    """Weights are missing or their digest differs."""

    code = "weights"


class TextUnsupported(EncoderError):
    """The encoder has no text tower."""

    code = "text-unsupported"
    exit_status = 2


class StoreError(ClinicalClipError):
    """The index on disk."""

    code = "store"


class IndexNotFound(StoreError):
    """No index at that path."""

    code = "index-not-found"
    exit_status = 2


class IndexMismatch(StoreError):
    """Made by another encoder, preprocessing or schema version."""

    code = "index-mismatch"
    exit_status = 2


class IndexCorrupt(StoreError):
    """Checksums or counts disagree; the hint says how to rebuild."""

    code = "index-corrupt"


class IndexBusy(StoreError):
    """Another process is writing to the index."""

    code = "index-busy"


class TrainingError(ClinicalClipError):
    """A run that cannot go on: a non-finite loss, data too small for a batch, no usable checkpoint."""

    code = "training"


class EvaluationError(ClinicalClipError):
    """A protocol that its data cannot support."""

    code = "evaluation"
    exit_status = 2


class FetchError(ClinicalClipError):
    """A download failed, or what came has another digest."""

    code = "fetch"


class MissingDependency(ClinicalClipError):
    """An optional package is needed; the hint names the extra to install."""

    code = "missing-dependency"
    exit_status = 2

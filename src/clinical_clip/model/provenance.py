"""Which files a model starts from, by digest: for model cards and run records."""

from __future__ import annotations

from pathlib import Path

from clinical_clip.model.bert import resolve_source, weights_file
from clinical_clip.model.config import DualEncoderConfig
from clinical_clip.model.weights import check_file, file_sha256

__all__ = ["weights_used"]


def weights_used(config: DualEncoderConfig) -> dict[str, str]:
    """File names (the last two parts of their paths) to SHA-256 (hex); empty for a random start.

    Raises:
        WeightsError: one of them is missing or has another digest than it must have.
    """
    files: list[Path] = []
    if config.image.weights is not None:
        files.append(check_file(config.image.weights))
    if config.text is not None and config.text.weights is not None:
        files.append(check_file(config.text.weights))
    if config.text is not None and config.text.source is not None and not config.text.shape_only:
        files.append(weights_file(resolve_source(config.text.source)))
    return {"/".join(path.parts[-2:]): file_sha256(path) for path in files}

"""Small pictures of images as they are shown: whole, in proportion, on black."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from clinical_clip.data.load import load_pixels
from clinical_clip.dicom.limits import DEFAULT_LIMITS, Limits
from clinical_clip.errors import ImageRejected
from clinical_clip.types import Hit, ImageRecord

__all__ = ["as_data_uri", "hit_record", "thumbnail"]


def hit_record(hit: Hit) -> ImageRecord:
    """The record that a hit points to, enough of it to load its pixels."""
    return ImageRecord(
        image_id=hit.image_id,
        path=Path(hit.path),
        relative_path=hit.relative_path,
        frame=hit.frame,
        kind=hit.kind,
    )


def thumbnail(record: ImageRecord, side: int, *, limits: Limits = DEFAULT_LIMITS) -> Image.Image | None:
    """RGB picture of side × side pixels, or None where the file is gone or cannot be read any more."""
    try:
        pixels = load_pixels(record, limits=limits)
    except ImageRejected:
        return None
    picture = Image.fromarray(pixels).convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (side, side))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def as_data_uri(picture: Image.Image) -> str:
    """The picture as a ``data:image/jpeg`` address, for a page that stands alone."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()

"""Which DICOM objects are indexed: a rule over SOP classes (PS3.4 B.5) and Image Type (PS3.3 C.7.6.1.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from clinical_clip.errors import ImageRejected, NoPixels, UnsupportedImage

__all__ = ["DEFAULT_OBJECTS", "ObjectKind", "ObjectPolicy", "check_object", "object_kind"]


class ObjectKind(StrEnum):
    """What a SOP class holds, as far as indexing is concerned."""

    IMAGE = "image"
    SECONDARY_CAPTURE = "secondary capture"
    RT_IMAGE = "radiotherapy image"
    TILED_SLIDE = "tiled slide"
    VIDEO = "video"
    SEGMENTATION = "segmentation"
    MAP = "parametric or dose map"
    RADIOTHERAPY = "radiotherapy object"
    REPORT = "structured report"
    PRESENTATION = "presentation state"
    WAVEFORM = "waveform"
    DOCUMENT = "encapsulated document"
    DIRECTORY = "media directory"
    OTHER = "object of another SOP class"
    PRIVATE = "private or unknown SOP class"
    MISSING = "no SOP class"


_STORAGE = "1.2.840.10008.5.1.4.1.1."
"""Root of the storage SOP classes (PS3.4 table B.5-1, PS3.6 table A-1)."""

_IMAGE_CODES = (
    "1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 2 2.1 2.2 3 3.1 4 4.1 4.3 4.4 5 6 6.1 6.2 6.3 12.1 12.1.1 12.2 12.2.1 "
    "12.3 13.1.1 13.1.2 13.1.3 13.1.4 13.1.5 14.1 14.2 20 77.1 77.2 77.1.1 77.1.2 77.1.3 77.1.4 77.1.5.1 "
    "77.1.5.2 77.1.5.4 77.1.5.5 77.1.5.6 77.1.5.7 77.1.7 77.1.8 128 128.1 130"
)
_IMAGE = frozenset(_IMAGE_CODES.split())
_EXACT = {
    "30": ObjectKind.MAP,
    "481.2": ObjectKind.MAP,
    "81.1": ObjectKind.MAP,
    "82.1": ObjectKind.MAP,
    "66.4": ObjectKind.SEGMENTATION,
    "66.5": ObjectKind.SEGMENTATION,
    "77.1.6": ObjectKind.TILED_SLIDE,
    "77.1.9": ObjectKind.TILED_SLIDE,
    "77.1.1.1": ObjectKind.VIDEO,
    "77.1.2.1": ObjectKind.VIDEO,
    "77.1.4.1": ObjectKind.VIDEO,
    "481.1": ObjectKind.RT_IMAGE,
    "481.23": ObjectKind.RT_IMAGE,
    "481.24": ObjectKind.RT_IMAGE,
}
_BY_ROOT = {
    "7": ObjectKind.SECONDARY_CAPTURE,
    "9": ObjectKind.WAVEFORM,
    "11": ObjectKind.PRESENTATION,
    "88": ObjectKind.REPORT,
    "104": ObjectKind.DOCUMENT,
    "481": ObjectKind.RADIOTHERAPY,
}
_VIDEO_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108))
"""MPEG-2, H.264 and H.265 (PS3.5 A.4.5 to A.4.9, A.4.11)."""

_SCREEN_VALUES = frozenset({"SCREEN SAVE", "DOSE_INFO", "DOSE REPORT", "PROT", "CSA REPORT"})
"""Image Type values with which scanners mark dose pages, protocol pages and screen shots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectPolicy:
    """Which of the objects that do hold an image are indexed. The rest never is.

    Attributes:
        localizers: scouts, whose Image Type has the value LOCALIZER (PS3.3 C.8.2.1.1.1, C.8.3.1.1.1).
        secondary_captures: digitised film, photographs of screens, converted pictures (PS3.3 A.8).
        screen_saves: images marked as dose pages, protocol pages or screen shots by Image Type.
        for_processing: Presentation Intent Type FOR PROCESSING (PS3.3 C.8.11.1), raw detector data.
        burned_in_annotation: images that declare Burned In Annotation YES (PS3.3 C.7.6.1.1.7).
        rt_images: portal and simulator images (PS3.3 A.17).
        private_classes: objects of a private or unknown SOP class that have pixel data.
    """

    localizers: bool = False
    secondary_captures: bool = True
    screen_saves: bool = False
    for_processing: bool = True
    burned_in_annotation: bool = True
    rt_images: bool = False
    private_classes: bool = False


DEFAULT_OBJECTS = ObjectPolicy()
"""The rule that applies where none is given."""


def object_kind(sop_class_uid: str) -> ObjectKind:
    """The kind of a SOP class.

    >>> object_kind("1.2.840.10008.5.1.4.1.1.2").value
    'image'
    >>> object_kind("1.2.840.10008.5.1.4.1.1.88.67").value
    'structured report'
    """
    if not sop_class_uid:
        return ObjectKind.MISSING
    if sop_class_uid == "1.2.840.10008.1.3.10":
        return ObjectKind.DIRECTORY
    if not sop_class_uid.startswith(_STORAGE):
        return ObjectKind.OTHER if sop_class_uid.startswith("1.2.840.10008.") else ObjectKind.PRIVATE
    code = sop_class_uid.removeprefix(_STORAGE)
    if code in _IMAGE:
        return ObjectKind.IMAGE
    return _EXACT.get(code) or _BY_ROOT.get(code.partition(".")[0], ObjectKind.OTHER)


def check_object(
    *,
    sop_class_uid: str,
    transfer_syntax_uid: str = "",
    image_type: tuple[str, ...] = (),
    presentation_intent: str = "",
    burned_in: bool = False,
    has_pixels: bool = True,
    policy: ObjectPolicy = DEFAULT_OBJECTS,
    where: str = "",
) -> None:
    """Return quietly where the object is to be indexed.

    Raises:
        NoPixels: an object that holds no image (report, presentation state, waveform, plan, ...).
        UnsupportedImage: an image that is not read, or that ``policy`` leaves out.
    """
    kind = object_kind(sop_class_uid)
    refusal = _refusal_by_kind(kind, has_pixels, policy)
    if refusal is None and transfer_syntax_uid in _VIDEO_SYNTAXES:
        refusal = UnsupportedImage(
            "a video transfer syntax", hint="extract still frames from the video first"
        )
    if refusal is None:
        refusal = _refusal_by_attributes(image_type, presentation_intent, burned_in, policy)
    if refusal is not None:
        refusal.where = where
        raise refusal


_WITH_PIXELS = {
    ObjectKind.SEGMENTATION: "labels, not an image",
    ObjectKind.MAP: "measured values, not an image",
    ObjectKind.TILED_SLIDE: "a tiled whole slide",
    ObjectKind.VIDEO: "a video",
}

_IMAGES = {ObjectKind.IMAGE, ObjectKind.SECONDARY_CAPTURE, ObjectKind.RT_IMAGE, ObjectKind.MISSING}
_UNKNOWN = {ObjectKind.PRIVATE, ObjectKind.OTHER}


def _refusal_by_kind(kind: ObjectKind, has_pixels: bool, policy: ObjectPolicy) -> ImageRejected | None:
    refusal: ImageRejected | None = None
    if kind in _WITH_PIXELS:
        refusal = UnsupportedImage(
            f"{kind.value}: {_WITH_PIXELS[kind]}", hint="index the source images instead"
        )
    elif kind in _UNKNOWN and has_pixels:
        refusal = None if policy.private_classes else _left_out(kind.value, "private_classes")
    elif kind not in _IMAGES:
        refusal = NoPixels(f"no image in the file: {kind.value}", hint="nothing to do")
    elif not has_pixels:
        refusal = NoPixels("no pixel data in the file", hint="fetch the object again with its pixels")
    elif kind is ObjectKind.SECONDARY_CAPTURE and not policy.secondary_captures:
        refusal = _left_out("a secondary capture", "secondary_captures")
    elif kind is ObjectKind.RT_IMAGE and not policy.rt_images:
        refusal = _left_out("a radiotherapy image", "rt_images")
    return refusal


def _refusal_by_attributes(
    image_type: tuple[str, ...], presentation_intent: str, burned_in: bool, policy: ObjectPolicy
) -> ImageRejected | None:
    if "LOCALIZER" in image_type and not policy.localizers:
        return _left_out("a localizer (scout)", "localizers")
    if _SCREEN_VALUES.intersection(image_type) and not policy.screen_saves:
        return _left_out("a screen save or dose page", "screen_saves")
    if presentation_intent == "FOR PROCESSING" and not policy.for_processing:
        return _left_out("raw data for processing", "for_processing")
    if burned_in and not policy.burned_in_annotation:
        return _left_out("annotation burned into the image", "burned_in_annotation")
    return None


def _left_out(what: str, setting: str) -> UnsupportedImage:
    return UnsupportedImage(f"{what}, left out by the object policy", hint=f"allow {setting} to index it")

from __future__ import annotations

import pytest
from pydicom._uid_dict import UID_dictionary

from clinical_clip.dicom.objects import ObjectKind, ObjectPolicy, check_object, object_kind
from clinical_clip.errors import NoPixels, UnsupportedImage

ROOT = "1.2.840.10008.5.1.4.1.1."


def test_every_storage_class_with_image_in_its_name_has_a_rule_of_its_own():
    for uid, (name, kind, *_) in UID_dictionary.items():
        not_medical = uid.startswith((ROOT + "501.", ROOT + "601."))  # luggage and turbine blades
        if kind == "SOP Class" and "Image Storage" in name and uid.startswith(ROOT) and not not_medical:
            assert object_kind(uid) in {
                ObjectKind.IMAGE,
                ObjectKind.SECONDARY_CAPTURE,
                ObjectKind.RT_IMAGE,
                ObjectKind.TILED_SLIDE,
                ObjectKind.VIDEO,
            }, name


def test_no_other_storage_class_counts_as_a_plain_image():
    for uid, (name, *_) in UID_dictionary.items():
        if object_kind(uid) is ObjectKind.IMAGE:
            assert "Image Storage" in name or name in {
                "Enhanced US Volume Storage",
                "VL Multi-frame Image Storage - Trial",
                "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis Storage",
                "Wide Field Ophthalmic Photography Stereographic Projection Image Storage",
            }, name


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("2", "image"),
        ("1.2", "image"),
        ("7", "secondary capture"),
        ("7.4", "secondary capture"),
        ("88.67", "structured report"),
        ("88.59", "structured report"),
        ("11.1", "presentation state"),
        ("66.4", "segmentation"),
        ("481.3", "radiotherapy object"),
        ("481.2", "parametric or dose map"),
        ("481.1", "radiotherapy image"),
        ("9.1.1", "waveform"),
        ("104.1", "encapsulated document"),
        ("77.1.6", "tiled slide"),
        ("66", "object of another SOP class"),
    ],
)
def test_kinds(code, kind):
    assert object_kind(ROOT + code).value == kind


@pytest.mark.parametrize("code", ["88.67", "11.1", "9.1.1", "104.1", "481.3", "481.5"])
def test_objects_without_an_image(code):
    with pytest.raises(NoPixels, match="no image in the file"):
        check_object(sop_class_uid=ROOT + code, has_pixels=False)


@pytest.mark.parametrize("code", ["66.4", "30", "481.2", "77.1.6", "77.1.1.1"])
def test_objects_whose_pixels_are_not_an_image(code):
    with pytest.raises(UnsupportedImage):
        check_object(sop_class_uid=ROOT + code)


def test_an_image_without_pixel_data():
    with pytest.raises(NoPixels, match="no pixel data"):
        check_object(sop_class_uid=ROOT + "2", has_pixels=False)


@pytest.mark.parametrize(
    ("given", "setting", "default"),
    [
        (
            {"sop_class_uid": ROOT + "2", "image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")},
            "localizers",
            False,
        ),
        ({"sop_class_uid": ROOT + "7"}, "secondary_captures", True),
        (
            {"sop_class_uid": ROOT + "7", "image_type": ("DERIVED", "SECONDARY", "SCREEN SAVE")},
            "screen_saves",
            False,
        ),
        ({"sop_class_uid": ROOT + "1.2.1", "presentation_intent": "FOR PROCESSING"}, "for_processing", True),
        ({"sop_class_uid": ROOT + "6.1", "burned_in": True}, "burned_in_annotation", True),
        ({"sop_class_uid": ROOT + "481.1"}, "rt_images", False),
        ({"sop_class_uid": "1.3.12.2.1107.5.9.1"}, "private_classes", False),
    ],
)
def test_each_setting_decides_its_objects_and_no_other(given, setting, default):
    check_object(**given, policy=ObjectPolicy(**{setting: True}))
    with pytest.raises(UnsupportedImage) as caught:
        check_object(**given, policy=ObjectPolicy(**{setting: False}))
    assert setting in caught.value.hint
    assert getattr(ObjectPolicy(), setting) is default


def test_a_video_transfer_syntax_is_refused_in_any_class():
    with pytest.raises(UnsupportedImage, match="video"):
        check_object(sop_class_uid=ROOT + "7.4", transfer_syntax_uid="1.2.840.10008.1.2.4.102")


def test_an_old_file_without_a_sop_class_is_an_image():
    check_object(sop_class_uid="")

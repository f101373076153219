"""DICOM to 8-bit pixels, and what the decoder jail costs: ``python -m benchmarks.dicom``.

1. A 5-megapixel 16-bit CR: rendering by lookup table against pydicom's ``apply_modality_lut`` and
   ``apply_voi_lut``, and against the limit: copying the stored values once.
2. Reading 1,000 CT slices from files to 8-bit pixels, against pydicom's bare read and decode, and against
   pydicom with its apply functions; the limit is reading the files' bytes.
3. The same slices through the decoder jail, against the same function in a ``multiprocessing.Pool``, which
   has no limits and does not survive a crash, and called here; one process each.

All in one run, rounds interleaved, medians. Prints, asserts nothing. Files are warm in the page cache.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from clinical_clip.data.jail import Jail
from clinical_clip.dicom.decode import decode_frame
from clinical_clip.dicom.grey import read_grey_transform
from clinical_clip.dicom.image import read_image_pixel
from clinical_clip.dicom.limits import DEFAULT_LIMITS
from clinical_clip.dicom.part10 import open_part10
from clinical_clip.dicom.pixels import read_frame, show_grey


def load_small(path: Path) -> NDArray[np.uint8]:
    """What the bulk pipeline does with a file: pixels, three channels, the encoder's input size."""
    pixels = cv2.resize(read_frame(path), (224, 224), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels


def by_pydicom(path: Path) -> NDArray[Any]:
    """Read and decode, no more."""
    return pydicom.dcmread(path).pixel_array


def by_pydicom_shown(path: Path) -> NDArray[np.uint8]:
    """Read, decode, apply, and scale to 8 bits."""
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = shown.min(), shown.max()
    return ((shown - low) / (high - low) * 255 + 0.5).astype(np.uint8)


def medians(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each job, in interleaved rounds after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def write_cr(path: Path) -> None:
    """2,500 x 2,000 values of 12 bits in 16, with rescale and window, as computed radiography has them."""
    rng = np.random.default_rng(0)
    values = cv2.GaussianBlur(rng.integers(0, 4096, (2500, 2000), dtype=np.uint16), (0, 0), 3)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", generate_uid()
    made.Rows, made.Columns, made.SamplesPerPixel = 2500, 2000, 1
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PhotometricInterpretation = "MONOCHROME1"
    made.RescaleSlope, made.RescaleIntercept, made.WindowCenter, made.WindowWidth = 1, 0, 2048, 900
    made.PixelData = values.tobytes()
    made.save_as(path, enforce_file_format=True)


def write_slices(folder: Path, count: int) -> list[Path]:
    """A real CT slice, enlarged to 512 x 512, under ``count`` new instance UIDs, with a lung window."""
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    dataset.PixelData = cv2.resize(dataset.pixel_array, (512, 512)).tobytes()
    dataset.Rows = dataset.Columns = 512
    dataset.WindowCenter, dataset.WindowWidth = -600, 1500
    paths = []
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        paths.append(folder / f"{number:04}.dcm")
        dataset.save_as(paths[-1])
    return paths


def bench_cr(folder: Path, rounds: int) -> None:
    path = folder / "cr.dcm"
    write_cr(path)
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array
    file = open_part10(path, DEFAULT_LIMITS)
    image = read_image_pixel(file, DEFAULT_LIMITS)
    transform = read_grey_transform(file.elements, image, 0)
    ours = decode_frame(file, image, 0)
    copy = np.empty_like(stored)
    times = medians(
        {
            "render": lambda: show_grey(ours, transform, 0, image.bits_stored),
            "pydicom": lambda: apply_voi_lut(apply_modality_lut(stored, dataset), dataset),
            "copy": lambda: np.copyto(copy, stored),
            "file": lambda: read_frame(path),
            "pydicom file": lambda: by_pydicom(path),
        },
        rounds,
    )
    ms = {name: 1e3 * value for name, value in times.items()}
    print("5-Mpx 16-bit CR, ms")
    print(f"  render by lookup table          {ms['render']:8.2f}")
    print(
        f"  pydicom apply_*                 {ms['pydicom']:8.2f}   ratio {ms['pydicom'] / ms['render']:.1f}"
    )
    print(f"  limit: copy the stored values   {ms['copy']:8.2f}   we take {ms['render'] / ms['copy']:.1f} x")
    print(f"  file to 8 bits                  {ms['file']:8.2f}")
    print(f"  pydicom, read and decode only   {ms['pydicom file']:8.2f}")


def bench_slices(paths: list[Path], rounds: int) -> None:
    def each(function: Callable[[Path], object]) -> Callable[[], object]:
        return lambda: [function(path) and None for path in paths]

    times = medians(
        {
            "ours": lambda: [read_frame(path).size for path in paths],
            "pydicom": lambda: [by_pydicom(path).size for path in paths],
            "pydicom shown": lambda: [by_pydicom_shown(path).size for path in paths],
            "bytes": each(Path.read_bytes),
        },
        rounds,
    )
    rates = {name: len(paths) / value for name, value in times.items()}
    gain = {name: rates["ours"] / rate for name, rate in rates.items()}
    print(f"{len(paths):,} CT slices of 512 x 512, images/s in one process")
    print(f"  read, decode, render            {rates['ours']:8.0f}")
    print(f"  pydicom, read and decode only   {rates['pydicom']:8.0f}   ratio {gain['pydicom']:.2f}")
    print(
        f"  pydicom, with apply_*           {rates['pydicom shown']:8.0f}   ratio {gain['pydicom shown']:.2f}"
    )
    print(f"  limit: read the bytes           {rates['bytes']:8.0f}   we reach {gain['bytes']:.0%}")


def bench_jail(paths: list[Path], rounds: int, what: str) -> None:
    from benchmarks.dicom import load_small as function  # by a name that a child process can import

    def here() -> None:
        for path in paths:
            load_small(path)

    def jailed() -> None:
        for _ in jail.imap(paths):
            pass

    def pooled() -> None:
        for _ in pool.imap(function, paths):
            pass

    with Jail(function, workers=1) as jail, multiprocessing.get_context("spawn").Pool(1) as pool:
        list(jail.imap(paths[:20]))
        jobs = {"jail": jailed, "pool": pooled, "here": here}
        times = medians(jobs, rounds)
        cpu_s = {name: [cpu_seconds(job) for _ in range(rounds)] for name, job in jobs.items()}
    rates = {name: len(paths) / value for name, value in times.items()}
    costs = {name: 1e6 * statistics.median(values) / len(paths) for name, values in cpu_s.items()}
    print(f"{len(paths):,} {what} to 224 x 224 x 3, one process")
    labels = {"jail": "in the jail", "pool": "in multiprocessing.Pool", "here": "called here"}
    for name, label in labels.items():
        print(f"  {label:32}{rates[name]:8.0f} images/s   {costs[name]:6.0f} us of CPU each")
    for name in ("pool", "here"):
        more = rates[name] / rates["jail"] - 1, costs["jail"] / costs[name] - 1
        print(f"  jail against {labels[name]:25}{more[0]:+8.1%} time      {more[1]:+6.1%} CPU   (bar: 10 %)")


def cpu_seconds(job: Callable[[], None]) -> float:
    """CPU seconds of this process and its children, which other load on the machine does not change."""
    start = all_cpu_seconds()
    job()
    return all_cpu_seconds() - start


def all_cpu_seconds() -> float:
    total = time.process_time()
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        bench_cr(Path(name), 3 * options.rounds)
        slices = write_slices(Path(name), options.slices)
        bench_slices(slices, options.rounds)
        bench_jail(slices, options.rounds, "CT slices of 512 x 512")
        bench_jail([Path(name) / "cr.dcm"] * (options.slices // 10), options.rounds, "CR of 5 Mpx")

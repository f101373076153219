from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clinical_clip.data.load import load_pixels
from clinical_clip.data.source import open_source
from clinical_clip.embed.bulk import embed_records, embed_to_file
from clinical_clip.embed.encoder import l2_normalise
from clinical_clip.embed.parts import PartStore
from clinical_clip.embed.preprocess import Preprocessing
from clinical_clip.embed.progress import Counter, Progress, scan_ahead
from clinical_clip.errors import IndexMismatch, SourceError, StoreError
from clinical_clip.types import ImageRecord, Rejection
from tests.embed.pictures import write_pictures


class MeanEncoder:
    """A tiny encoder: the picture's coarse 4 × 4 colours. Counts what it encodes."""

    name = "mean-colours"
    width = 48
    has_text = False

    def __init__(self, digest: str = "d" * 64) -> None:
        self.digest = digest
        self.preprocessing = Preprocessing(size=16, resize="squash")
        self.encoded = 0

    def encode_images(self, image_BHWC: np.ndarray) -> np.ndarray:
        self.encoded += len(image_BHWC)
        blocks = image_BHWC.reshape(len(image_BHWC), 4, 4, 4, 4, 3).mean(axis=(2, 4))
        return l2_normalise(blocks.reshape(len(image_BHWC), -1) + 1)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        raise AssertionError(texts)


def expected(folder: Path, names: list[str]) -> np.ndarray:
    encoder = MeanEncoder()
    records = {item.relative_path: item for item in open_source(folder) if isinstance(item, ImageRecord)}
    images = [encoder.preprocessing.apply(load_pixels(records[name])) for name in names]
    return encoder.encode_images(np.stack(images))


def test_file_holds_relative_paths_and_the_right_vectors(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "in", 30)
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    out = tmp_path / "out.npz"
    done = embed_to_file(open_source(tmp_path / "in"), MeanEncoder(), out, source="in", part_size=8)
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == names
        assert np.array_equal(arrays["vectors"], expected(tmp_path / "in", names))
        assert arrays["vectors"].dtype == np.float32
        assert all(image_id.startswith("sha256:") for image_id in arrays["image_ids"])
    assert (done.images, done.resumed) == (30, 0)
    assert [(r.name, r.code) for r in done.rejections] == [("broken.png", "corrupt")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.npz"]


def test_in_memory_equals_file(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "in", 12)
    seen: list[Progress] = []
    found = embed_records(open_source(tmp_path / "in"), MeanEncoder(), progress=seen.append)
    assert [record.name for record in found.records] == names
    assert np.array_equal(found.vectors_ND, expected(tmp_path / "in", names))
    assert seen[-1].done == 12


def test_finished_parts_are_not_done_again(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "in", 20)
    plan = {"source": "in", "encoder": "d" * 64, "preprocessing": MeanEncoder().preprocessing.digest}
    records = [item for item in open_source(tmp_path / "in") if isinstance(item, ImageRecord)]
    store = PartStore(tmp_path / "out.npz.parts", plan)
    store.write(records[:9], expected(tmp_path / "in", names[:9]))
    (tmp_path / "out.npz.parts" / "000001.npz").write_bytes(b"PK half a part")
    encoder = MeanEncoder()
    done = embed_to_file(open_source(tmp_path / "in"), encoder, tmp_path / "out.npz", source="in")
    assert (done.resumed, encoder.encoded) == (9, 11)
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["ids"].tolist() == names
        assert np.array_equal(arrays["vectors"], expected(tmp_path / "in", names))


def test_parts_of_another_encoder_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 2)
    PartStore(tmp_path / "out.npz.parts", {"source": "in", "encoder": "old", "preprocessing": "p"})
    with pytest.raises(IndexMismatch, match="another encoder, preprocessing"):
        embed_to_file(open_source(tmp_path / "in"), MeanEncoder(), tmp_path / "out.npz", source="in")


def test_nothing_to_encode_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SourceError, match=r"1 rejected; the first: x\.png"):
        embed_to_file(open_source(tmp_path / "in"), MeanEncoder(), tmp_path / "out.npz", source="in")
    assert not (tmp_path / "out.npz").exists()


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 1)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        embed_to_file(open_source(tmp_path / "in"), MeanEncoder(), tmp_path / "file" / "o.npz", source="in")


def test_an_error_of_the_source_reaches_the_caller() -> None:
    def failing() -> object:
        yield Rejection(name="a", code="corrupt", what="damaged")
        raise SourceError("the folder vanished", where="in", hint="mount it again")

    with pytest.raises(SourceError, match="vanished"):
        list(scan_ahead(failing(), Counter()))  # type: ignore[call-overload]


RUN = """
import sys
from pathlib import Path
from tests.embed.test_bulk import MeanEncoder
from clinical_clip.data.source import open_source
from clinical_clip.embed.bulk import embed_to_file
if __name__ == "__main__":
    embed_to_file(open_source(Path(sys.argv[1])), MeanEncoder(), Path(sys.argv[2]), source="in", part_size=4)
"""


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.full)])
def test_kill_9_loses_no_finished_part(tmp_path: Path, kills: int) -> None:
    names = write_pictures(tmp_path / "in", 300, side=120)
    out = tmp_path / "out.npz"
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "in"), str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    moments = random.Random(kills)
    finished = 0
    for _ in range(kills):
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        time.sleep(moments.uniform(0.6, 1.6))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        parts = sorted((tmp_path / "out.npz.parts").glob("[0-9]*.npz")) if not out.exists() else []
        assert out.exists() or len(parts) >= finished
        finished = len(parts)
    subprocess.run(command, env=environment, check=True, timeout=120)
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == names
        assert np.array_equal(arrays["vectors"], expected(tmp_path / "in", names))
    assert not (tmp_path / "out.npz.parts").exists()

"""Processes that read while another one writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults import child
from tests.faults.test_kill import ROOT, Ledger, start

READER = """
import sys
from pathlib import Path
import numpy as np
from clinical_clip.index import Library
from clinical_clip.search import Query, search
from tests.faults import child

folder, most = Path(sys.argv[1]), 0
with Library.open(folder) as library:
    for turn in range(150):
        library.refresh()
        query = Query(vectors=child.vector(turn), k=20, where=["modality=ct"])
        hits = search(library, query).hits
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert len({hit.image_id for hit in hits}) == len(hits)
        for hit in hits:
            number = int(hit.image_id.rpartition("-")[2])
            assert hit.fields["modality"] == "CT" and number % 2 == 0
            wanted = float(child.vector(number) @ child.vector(turn))
            assert abs(hit.score - wanted) < 2e-3, (hit.score, wanted)
        most = max(most, len(library))
    assert library.notices == [], library.notices
print("fine", most)
"""


def test_two_readers_while_one_writes(tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    child.create(folder)
    ledger = Ledger(folder)
    writer = start(folder, 0)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "opened \n"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    lines: list[str] = []
    said = [reader.communicate(timeout=120) for reader in readers]
    writer.kill()
    lines += writer.communicate()[0].splitlines()
    for out, err in said:
        assert out.startswith("fine"), err
        assert int(out.split()[1]) > 0
    ledger.read(lines)
    ledger.check()

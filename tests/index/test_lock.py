"""The writer's lock when its holder dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clinical_clip.errors import IndexBusy
from clinical_clip.index.lock import WriterLock

HOLDER = """
import os, sys, time
from pathlib import Path
from clinical_clip.index.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
if os.fork() == 0:
    time.sleep(0.7)  # a child that has the descriptor still, as between fork and exec
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_s_child_is_waited_for(
    holder: subprocess.Popen[str], tmp_path: Path, reaped: bool
) -> None:
    holder.kill()
    if reaped:
        holder.wait()
    WriterLock(tmp_path / "lock").release()


def test_a_living_holder_is_named_at_once(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(IndexBusy, match=f"process {holder.pid} is writing"):
        WriterLock(tmp_path / "lock")
    assert os.path.exists(tmp_path / "lock")

"""The decoder jail: one bad file costs one file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from tests.data import jail_functions as functions

from clinical_clip.data import jail_wire
from clinical_clip.data.jail import Jail
from clinical_clip.dicom.limits import Limits
from clinical_clip.errors import (
    ClinicalClipError,
    CorruptImage,
    DecoderFailed,
    ImageRejected,
    LimitExceeded,
    OptionError,
)

TIGHT = Limits(timeout_s=1.0, memory_bytes=256 << 20, max_pixels=1_000_000)


def children(parent: int) -> set[int]:
    threads = Path(f"/proc/{parent}/task").glob("*/children")
    return {int(word) for thread in threads for word in thread.read_text().split()}


def test_results_come_in_order_and_complete() -> None:
    with Jail(functions.square, workers=2) as jail:
        assert list(jail.imap(range(500))) == [(n, n * n) for n in range(500)]
        assert sorted(jail.imap(range(50), ordered=False)) == [(n, n * n) for n in range(50)]
        assert list(jail.imap([])) == []
        assert jail.call(7) == 49


def test_arrays_and_structures_travel_exactly() -> None:
    value = {
        "image": np.arange(24, dtype=np.uint16).reshape(2, 3, 4)[:, ::-1],
        "more": (1.5, None, True, "x", [np.array(-3.0), np.zeros((0, 3), np.int8)]),
    }
    with Jail(functions.echo, workers=1) as jail:
        back = jail.call(value)
    np.testing.assert_array_equal(back["image"], value["image"])
    assert back["image"].dtype == np.uint16
    assert back["more"][:4] == (1.5, None, True, "x")
    assert back["more"][4][0].shape == ()
    assert back["more"][4][1].shape == (0, 3)


def test_results_stay_whole_when_their_memory_is_used_again() -> None:
    sides = [3, 50, 200, 7] * 20
    with Jail(functions.picture, workers=2) as jail:
        kept = list(jail.imap(sides))
    for side, image in kept:
        np.testing.assert_array_equal(image, functions.picture(side))


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("segfault", DecoderFailed, "crashed"),
        ("sigkill", DecoderFailed, "killed"),
        ("hang", DecoderFailed, "time"),
        ("hold the GIL", DecoderFailed, "time"),
        ("exit", DecoderFailed, "status 3"),
        ("memory", DecoderFailed, "memory"),
        ("python", DecoderFailed, "KeyError"),
        ("typed", CorruptImage, "damaged (x.dcm): throw it away"),
        ("nowhere", CorruptImage, "(nowhere)"),
        ("unsendable", DecoderFailed, "TypeError"),
        ("too large", LimitExceeded, "larger"),
        ("write", DecoderFailed, "OSError"),
    ],
)
def test_a_bad_item_costs_one_item(how: str, kind: type[ImageRejected], words: str) -> None:
    items = ["a", "b", how, "c", "d", "e"]
    with Jail(functions.misbehave, workers=2, limits=TIGHT) as jail:
        results = list(jail.imap(items))
    assert [item for item, _ in results] == items
    failure = results[2][1]
    assert type(failure) is kind
    assert words in str(failure)
    assert "patient" not in str(failure)
    assert [result for item, result in results if item != how] == ["a", "b", "c", "d", "e"]


def test_many_crashes_in_a_row_lose_nothing() -> None:
    items = [("segfault", "x")[n % 3 > 0] for n in range(12)]
    with Jail(functions.misbehave, workers=2, limits=TIGHT) as jail:
        results = list(jail.imap(items))
    assert [item for item, _ in results] == items
    assert sum(isinstance(result, DecoderFailed) for _, result in results) == 4


def test_no_process_stays_behind() -> None:
    before = children(os.getpid())
    jail = Jail(functions.pid, workers=2)
    pids = {pid for _, pid in jail.imap(range(20))}
    assert pids <= children(os.getpid())
    jail.close()
    jail.close()
    assert children(os.getpid()) == before
    with pytest.raises(ClinicalClipError, match="closed"):
        list(jail.imap([1]))


def test_leaving_early_does_not_block_the_next_pass() -> None:
    with Jail(functions.square, workers=2) as jail:
        for item, _ in jail.imap(range(10_000)):
            if item == 5:
                break
        assert jail.call(3) == 9


def test_one_pass_at_a_time() -> None:
    with Jail(functions.square, workers=1) as jail:
        first = jail.imap(range(3))
        next(first)
        with pytest.raises(ClinicalClipError, match="in use"):
            jail.call(1)
        first.close()
        assert jail.call(2) == 4


def test_reading_waits_for_the_consumer() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield taken

    with Jail(functions.square, workers=2, lookahead=8) as jail:
        run = jail.imap(items())
        next(run)
        time.sleep(0.5)
        assert taken <= 9
        assert len(list(run)) == 99


def test_an_error_of_the_source_reaches_the_consumer() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise CorruptImage("source broke")

    with Jail(functions.square, workers=1) as jail:
        with pytest.raises(CorruptImage, match="source broke"):
            list(jail.imap(items()))
        assert jail.call(2) == 4


def test_read_only_mappings_travel_to_the_child() -> None:
    with Jail(functions.keys_of, workers=1) as jail:
        assert jail.call(MappingProxyType({"a": 1})) == ["a"]


def test_a_function_that_cannot_be_sent_is_refused_at_once() -> None:
    with pytest.raises(OptionError, match="importable"):
        Jail(lambda value: value, workers=1)


def vanished() -> None:
    """Has another name by the time that a child looks for it."""


def test_a_child_that_cannot_import_the_function_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "only_here", vanished, raising=False)
    monkeypatch.setattr(vanished, "__module__", functions.__name__)
    monkeypatch.setattr(vanished, "__qualname__", "only_here")
    with Jail(vanished, workers=1) as jail, pytest.raises(ClinicalClipError, match="AttributeError"):
        jail.call(1)


def test_children_that_cannot_start_end_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Jail(functions.square, workers=1) as jail, pytest.raises(ClinicalClipError, match="do not start"):
        jail.call(1)


def test_options_are_checked() -> None:
    with pytest.raises(OptionError):
        Jail(functions.square, workers=0)


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"result": {"array": [0, "O", [1]]}},
        {"result": {"array": [0, "<u1", [1 << 40]]}},
        {"result": {"array": [-8, "<u1", [4]]}},
        {"result": {"array": [0, "<u1", [-1, -4]]}},
        {"result": {"array": [60, "<f8", [1]]}},
        {"result": {"call": 1}},
        {"result": {"a": 1, "b": 2}},
        {"result": {"array": "x"}},
    ],
)
def test_a_lying_child_is_not_believed(reply: dict[str, object]) -> None:
    with pytest.raises(DecoderFailed):
        jail_wire.unpack(reply, memoryview(bytearray(64)))


@pytest.mark.parametrize(
    "reply", [{"error": 1}, {"error": ["OptionError", "", "", ""]}, {"error": ["os", "", "", ""]}]
)
def test_only_rejections_come_back_as_errors(reply: dict[str, object]) -> None:
    assert type(jail_wire.unpack_error(json.loads(json.dumps(reply)))) is DecoderFailed


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "from clinical_clip.data.jail import Jail\n"
        "from tests.data.jail_functions import pid, slow\n"
        "import sys, time\n"
        "a, b = Jail(pid, workers=1), Jail(slow, workers=1)\n"
        "print(a.call(0), flush=True)\n"
        "b.call(0.0)\n"
        "run = b.imap([0.0, 60.0]); next(run)\n"
        "print('go', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        first = int(parent.stdout.readline())
        assert parent.stdout.readline() == "go\n"
        pids = children(parent.pid)
        assert first in pids
        assert len(pids) == 2
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from clinical_clip.cli.main import run


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``clinical-clip`` with these arguments, in this process, wide enough not to wrap."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["clinical-clip", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "250")
        code = 0
        try:
            run()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call

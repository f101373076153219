"""Checkpoints that are whole or absent, checked by digest, the newest good one found again.

A checkpoint is a folder ``step-00001234`` with ``model.safetensors`` (weights and buffers), ``state.pt``
(optimizer, random states, position: tensors and plain values, read with ``weights_only``) and
``checkpoint.json`` (digests of both, what the run knew). It is written beside its place, synced, renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clinical_clip.errors import StoreError, TrainingError

__all__ = ["CheckpointStore", "Facts", "LoadedCheckpoint"]

_NAME = re.compile(r"step-(\d{8})")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a checkpoint says of itself.

    Attributes:
        step: optimizer steps; epoch, batch: where the run goes on.
        identity: of the run's config; data_digest: of its pairs.
        validation: what was measured at this step; empty between validations.
        counts: of the run so far.
    """

    step: int
    epoch: int
    batch: int
    identity: str
    data_digest: str
    validation: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A checkpoint whose digests are right."""

    facts: Facts
    weights: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run: the last ``keep`` and the one of the lowest validation loss."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def save(self, facts: Facts, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write one durably, then drop what is no longer kept.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        final = self.folder / f"step-{facts.step:08d}"
        temp = self.folder / f".{final.name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temp, ignore_errors=True)
            temp.mkdir()
            save_file(
                {name: tensor.contiguous() for name, tensor in weights.items()}, temp / "model.safetensors"
            )
            torch.save(dict(state), temp / "state.pt")
            digests = {name: _digest(temp / name) for name in ("model.safetensors", "state.pt")}
            card = {"facts": asdict(facts), "sha256": digests}
            (temp / "checkpoint.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
            for path in (*temp.iterdir(), temp):
                _sync(path)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temp, final)
            _sync(self.folder)
        except OSError as error:
            raise StoreError(
                f"a checkpoint cannot be written: {error.strerror or type(error).__name__}",
                where=str(self.folder),
                hint="free some space, then run the same command again: it resumes",
            ) from error
        self.prune()
        return final

    def latest(self) -> LoadedCheckpoint | None:
        """The newest whose digests are right, or None. Damaged ones are passed over, and said so.

        Raises:
            TrainingError: there are checkpoints, and all are damaged.
        """
        names = list(self._steps())
        for _, path in names:
            try:
                return self.load(path)
            except TrainingError as error:
                _LOG.warning("%s; the one before it is used", error)
        if names:
            raise TrainingError(
                "every checkpoint is damaged", where=str(self.folder), hint="start again in another folder"
            )
        return None

    def best(self) -> tuple[Path, Facts] | None:
        """Folder and facts of the lowest validation loss, the earlier of two equal ones; None without any."""
        validated = [
            (facts.validation["loss"], facts.step, path, facts)
            for path in (path for _, path in self._steps())
            if (facts := _facts(path)) is not None and "loss" in facts.validation
        ]
        if not validated:
            return None
        _, _, path, facts = min(validated, key=lambda entry: entry[:2])
        return path, facts

    def load(self, path: Path) -> LoadedCheckpoint:
        """The checkpoint at ``path``.

        Raises:
            TrainingError: a file is missing, or its digest is not the one that was written.
        """
        try:
            card = json.loads((path / "checkpoint.json").read_bytes())
            facts = Facts(**card["facts"])
            for name in ("model.safetensors", "state.pt"):
                if _digest(path / name) != card["sha256"][name]:
                    raise ValueError(f"{name} has another digest")
            weights = load_file(path / "model.safetensors")
            state = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
        except Exception as error:  # torch and safetensors raise many kinds on damaged bytes
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(
                f"a checkpoint is damaged ({what})", where=path.name, hint="delete its folder"
            ) from error
        return LoadedCheckpoint(facts=facts, weights=weights, state=state)

    def _steps(self) -> Iterator[tuple[int, Path]]:
        """Step and folder, newest first."""
        found = []
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match and path.is_dir():
                    found.append((int(match[1]), path))
        yield from sorted(found, reverse=True)

    def prune(self) -> None:
        """Drop what is not kept, and what a kill left half-written."""
        for path in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(path, ignore_errors=True)
        best = self.best()
        for _, path in list(self._steps())[self._keep :]:
            if best is None or path != best[0]:
                shutil.rmtree(path, ignore_errors=True)


def _facts(path: Path) -> Facts | None:
    try:
        return Facts(**json.loads((path / "checkpoint.json").read_bytes())["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

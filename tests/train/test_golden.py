"""Each family's losses and gradients, step by step, as they were when last changed on purpose.

CPU, float32, one thread, made pairs. The tolerances are for other CPUs' rounding, which training
amplifies: 1e-4 of the loss, 1e-2 of the gradient's norm. Anew: ``python -m tests.train.test_golden``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clinical_clip.train.log import read_table
from clinical_clip.train.recipes import smoke_recipes
from tests.train.conftest import Runs

GOLDEN = Path(__file__).parent / "golden" / "losses.json"


def measured(runs: Runs, name: str) -> dict[str, list[float]]:
    runs.trainer(smoke_recipes()[name], name).run()
    rows = read_table(runs.folder / name / "steps.csv")
    return {column: [row[column] for row in rows] for column in ("loss", "gradient_norm")}


@pytest.mark.parametrize("name", sorted(smoke_recipes()))
def test_losses_of_every_family(name: str, runs: Runs) -> None:
    found, golden = measured(runs, name), json.loads(GOLDEN.read_text())[name]
    assert found["loss"] == pytest.approx(golden["loss"], rel=1e-4)
    assert found["gradient_norm"] == pytest.approx(golden["gradient_norm"], rel=1e-2)


def test_every_family_is_golden() -> None:
    assert set(json.loads(GOLDEN.read_text())) == set(smoke_recipes())


if __name__ == "__main__":
    import tempfile

    import torch

    from clinical_clip.train.distributed import World
    from clinical_clip.train.made import make_pairs

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made = make_pairs(Path(scratch) / "made", 48)
        runs_ = Runs(made, World(rank=0, size=1, device=torch.device("cpu")), Path(scratch))
        found = {name: measured(runs_, name) for name in smoke_recipes()}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")

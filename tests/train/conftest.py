from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clinical_clip.data.pairs import PairSet
from clinical_clip.train.config import RunConfig
from clinical_clip.train.distributed import World
from clinical_clip.train.log import read_table
from clinical_clip.train.made import make_pairs
from clinical_clip.train.trainer import Trainer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return make_pairs(tmp_path_factory.mktemp("made"), 48)


@pytest.fixture(scope="session")
def manifest(made: PairSet) -> Path:
    """The made pairs as a manifest, for what starts in a process of its own."""
    path = made.pairs[0].image.parent / "manifest.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption", "split"])
        for pair in made:
            writer.writerow([pair.image.name, pair.caption, pair.split])
    return path


@pytest.fixture
def world() -> World:
    return World(rank=0, size=1, device=torch.device("cpu"))


class Runs:
    """Trains configs on the made pairs and reads what they wrote."""

    def __init__(self, made: PairSet, world: World, folder: Path) -> None:
        self.made, self.world, self.folder = made, world, folder

    def trainer(self, config: RunConfig, name: str = "run") -> Trainer:
        return config.build(
            data=self.made.split("train"),
            validation=self.made.split("validation"),
            out=self.folder / name,
            world=self.world,
        )

    def losses(self, config: RunConfig, name: str = "run") -> list[float]:
        self.trainer(config, name).run()
        return self.read(name)

    def read(self, name: str = "run") -> list[float]:
        return [row["loss"] for row in read_table(self.folder / name / "steps.csv")]


@pytest.fixture
def runs(made: PairSet, world: World, tmp_path: Path) -> Runs:
    return Runs(made, world, tmp_path)


def with_batchnorm(config: RunConfig, policy: str) -> RunConfig:
    image = replace(config.model.image, batchnorm=policy)
    return replace(config, model=replace(config.model, image=image))

"""One row of the table at full size: built, two steps, a checkpoint, the same embeddings out of it.

Each row is measured in a process of its own, so that its peak memory is its own::

    python -m clinical_clip.train.rows '{"row": "ConVIRT (random init.)", ...}'
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clinical_clip.data.pairs import Pair, PairSet
from clinical_clip.errors import TrainingError
from clinical_clip.model.dual import DualEncoder
from clinical_clip.model.methods import ROWS, Row, row
from clinical_clip.model.random_weights import write_random_weights
from clinical_clip.model.weights import load_strictly
from clinical_clip.train.checkpoint import CheckpointStore
from clinical_clip.train.config import RunConfig
from clinical_clip.train.distributed import World
from clinical_clip.train.log import read_table
from clinical_clip.train.made import make_pairs
from clinical_clip.train.recipes.paper import Weights, row_recipe
from clinical_clip.train.trainer import Trainer

__all__ = ["RowCheck", "check_rows"]

_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class RowCheck:
    """What was found of one row.

    Attributes:
        parameters: of image tower, text tower and heads; as_published: they are the architectures' own.
        losses: of the steps; step_s: seconds of the last; peak_bytes: resident, of the whole process.
        reloads: the checkpoint gives bit for bit the same embeddings in a new model.
    """

    row: str
    parameters: tuple[int, int, int]
    as_published: bool
    losses: tuple[float, ...]
    step_s: float
    peak_bytes: int
    reloads: bool


def check_rows(
    pairs: Sequence[Pair],
    *,
    weights: Path,
    batch_size: int = 2,
    threads: int | None = None,
    rows: Sequence[Row] = ROWS,
) -> Iterator[RowCheck]:
    """Check each row after the other, from random weights in the published formats.

    Args:
        pairs: real ones, or none: then pictures are drawn.
        weights: folder; what is not there yet is written, at random. 1.6 GB.
        threads: of torch; None leaves it to torch.

    Raises:
        TrainingError: a row failed; it says how.
    """
    seen = [
        {"pair_id": pair.pair_id, "image": str(pair.image), "frame": pair.frame, "caption": pair.caption}
        for pair in pairs[: (_STEPS + 1) * batch_size]
    ]
    shared = {"pairs": seen, "weights": str(weights), "batch_size": batch_size, "threads": threads}
    for one in rows:
        command = [sys.executable, "-m", "clinical_clip.train.rows", json.dumps({"row": one.name, **shared})]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise TrainingError(f"the row failed: {reason[0]}", where=one.name, hint="see its message")
        found = json.loads(done.stdout.splitlines()[-1])
        found["parameters"], found["losses"] = tuple(found["parameters"]), tuple(found["losses"])
        yield RowCheck(**found)


def _check(one: Row, task: dict[str, Any], scratch: Path) -> RowCheck:
    torch.set_num_threads(task["threads"] or torch.get_num_threads())
    write_random_weights(Path(task["weights"]), names=_needed(one))
    config = _config(one, Weights(folder=Path(task["weights"]), checked=False), int(task["batch_size"]))
    train, held_out = _pair_sets(task, scratch)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    trainer = Trainer(config, data=train, validation=held_out, out=scratch / "run", world=world)
    trainer.run()
    steps = read_table(scratch / "run" / "steps.csv")
    counts = _counts(trainer.model)
    expected = (one.image_parameters, one.text_parameters, one.head_parameters)
    if one.method == "imagenet":  # it lends the text side to be able to take a step
        counts = (counts[0], 0, 0)
    return RowCheck(
        row=one.name,
        parameters=counts,
        as_published=counts == expected,
        losses=tuple(step["loss"] for step in steps),
        step_s=config.data.batch_size / steps[-1]["pairs_per_s"],
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        reloads=_reloads(trainer, config, scratch),
    )


def _needed(one: Row) -> list[str]:
    names = ["Bio_ClinicalBERT"] if one.method != "clip" else []
    if one.start == "openai":
        return [*names, one.image]
    return [*names, "resnet50-imagenet"] if one.start == "imagenet" else names


def _config(one: Row, weights: Weights, batch_size: int) -> RunConfig:
    """The row's own recipe for two steps; the rows that are not trained take their family's."""
    if one.method == "imagenet":
        one = row("ConVIRT (ImageNet init.)")
    config = row_recipe(one, weights)
    data = replace(config.data, batch_size=batch_size, workers=0)
    return replace(config, data=data, epochs=1, max_steps=_STEPS, keep=1)


def _pair_sets(task: dict[str, Any], scratch: Path) -> tuple[PairSet, PairSet]:
    batch_size = int(task["batch_size"])
    pairs = [Pair(**{**values, "image": Path(values["image"])}) for values in task["pairs"]]
    if not pairs:
        pairs = list(make_pairs(scratch / "made", (_STEPS + 1) * batch_size, size_px=256))
    cut = len(pairs) - batch_size
    if cut < _STEPS * batch_size:
        raise TrainingError(f"{len(pairs)} pairs", hint=f"give {(_STEPS + 1) * batch_size} or more")
    return (
        PairSet(name="two steps", pairs=tuple(pairs[:cut])),
        PairSet(name="held out", pairs=tuple(pairs[cut:])),
    )


def _counts(model: DualEncoder) -> tuple[int, int, int]:
    text = 0 if model.text is None else sum(p.numel() for p in model.text.parameters())
    heads = sum(p.numel() for head in (model.image_head, model.text_head) for p in head.parameters())
    return sum(p.numel() for p in model.image.parameters()), text, heads


@torch.no_grad()
def _reloads(trainer: Trainer, config: RunConfig, scratch: Path) -> bool:
    best = CheckpointStore(scratch / "run" / "checkpoints", keep=1).best()
    if best is None:
        return False
    again = config.model.build(seed=config.seed + 1)
    store = CheckpointStore(scratch / "run" / "checkpoints", keep=1)
    load_strictly(again, store.load(best[0]).weights, where=best[0].name)
    side = trainer.model.preprocess.size
    image_BCHW = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    answers = []
    for model in (trainer.model, again):
        # One layout for both: the trainer's own (channels last) sums in another order than a new model's.
        model.eval().to(memory_format=torch.contiguous_format)
        tokens = model.tokenize(["Axial CT of the chest.", "A frontal radiograph of the left hand, normal."])
        answers.append((model.encode_image(image_BCHW), model.encode_text(tokens)))
    return all(torch.equal(was, now) for was, now in zip(*answers, strict=True))


def _main() -> None:
    task = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(asdict(_check(row(task["row"]), task, Path(scratch)))))


if __name__ == "__main__":
    _main()

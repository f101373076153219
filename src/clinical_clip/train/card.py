"""The model card: generated from the run's facts, so that it says what was done and no more."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from clinical_clip import __version__
from clinical_clip.atomic import replace_file
from clinical_clip.data.pairs import PairSet
from clinical_clip.train.config import RunConfig

if TYPE_CHECKING:
    from clinical_clip.train.trainer import TrainResult

__all__ = ["write_card"]

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "transformers", "numpy", "opencv-python-headless")
_FLIP = (
    "The horizontal flip of the augmentation erases left and right: this model cannot tell the sides of a "
    "body apart."
)


def write_card(
    config: RunConfig,
    result: TrainResult,
    *,
    data: PairSet,
    validation: PairSet | None,
    model_sha256: str,
    world: int,
) -> None:
    """Write ``card.md`` for people and ``run.json`` with the same facts for programs."""
    facts = _facts(config, result, data=data, validation=validation, model_sha256=model_sha256, world=world)
    with replace_file(result.out / "run.json") as stream:
        stream.write(json.dumps(facts, indent=1, default=str).encode() + b"\n")
    with replace_file(result.out / "card.md") as stream:
        stream.write(_card(config, facts, curves=result.steps > 0).encode())


def _facts(
    config: RunConfig,
    result: TrainResult,
    *,
    data: PairSet,
    validation: PairSet | None,
    model_sha256: str,
    world: int,
) -> dict[str, Any]:
    sets = {"train": data} if validation is None else {"train": data, "validation": validation}
    return {
        "recipe": config.name,
        "config_sha256": config.digest,
        "config": config.to_json(),
        "model_sha256": model_sha256,
        "steps": result.steps,
        "epochs": result.epochs,
        "processes": world,
        "seconds": round(result.counts.seconds, 1),
        "counts": dataclasses.asdict(result.counts),
        "validation": result.validation,
        "data": {name: _of_set(pairs) for name, pairs in sets.items()},
        "versions": _versions(),
    }


def _of_set(pairs: PairSet) -> dict[str, Any]:
    return {
        "name": pairs.name,
        "sha256": pairs.digest,
        "pairs": sum(pair.has_image for pair in pairs),
        "missing_images": len(pairs.missing),
        "captions_by_a_program": pairs.n_synthetic,
        "licences": dict(Counter(pair.licence or "not stated" for pair in pairs).most_common()),
    }


def _versions() -> dict[str, str]:
    found = {"clinical-clip": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _card(config: RunConfig, facts: Mapping[str, Any], *, curves: bool) -> str:
    parts = [
        f"# {config.name}\n\nResearch use; not for diagnosis. Written by the run itself.\n",
        "## Run\n\n" + _table(("", ""), _run_rows(config, facts)),
        "## Data\n\n" + "\n".join(_set_text(split, found) for split, found in facts["data"].items()),
        "## Validation, best checkpoint\n\n" + _validation(facts["validation"]),
    ]
    if config.data.augmentation == "convirt":
        parts.append(f"## Limits\n\n{_FLIP}\n")
    if curves:
        parts.append("![Loss and retrieval over steps](curves.png)\n")
    settings = json.dumps(facts["config"], indent=1, default=str)
    parts.append(f"## Recipe\n\n```json\n{settings}\n```\n")
    parts.append("## Versions\n\n" + _table(("package", "version"), facts["versions"].items()))
    return "\n".join(parts)


def _run_rows(config: RunConfig, facts: Mapping[str, Any]) -> list[tuple[str, object]]:
    counts = facts["counts"]
    seen = counts["pairs"]
    cut = (
        f"{counts['truncated']:,} of {seen:,} ({100 * counts['truncated'] / seen:.2f} %)" if seen else "none"
    )
    return [
        ("optimizer steps", f"{facts['steps']:,} in {facts['epochs']} whole epochs"),
        ("pairs a batch", f"{config.data.batch_size}, over {facts['processes']} process(es)"),
        ("precision", f"{config.precision}, weights in float32"),
        ("seed", config.seed),
        ("time", f"{facts['seconds']:,.0f} s"),
        ("captions seen and cut at the tower's limit", cut),
        ("images that could not be read", counts["rejected"]),
        ("weights, SHA-256", facts["model_sha256"]),
        ("config, SHA-256", facts["config_sha256"]),
    ]


def _set_text(split: str, found: Mapping[str, Any]) -> str:
    lines = [
        f"**{split}**: {found['name']}, {found['pairs']:,} pairs, "
        f"{found['missing_images']:,} images missing. "
        f"SHA-256 of ids and captions: `{found['sha256']}`.",
    ]
    if found["captions_by_a_program"]:
        lines.append(f"{found['captions_by_a_program']:,} captions were made from labels by a program.")
    lines.append("\n" + _table(("licence, as its source states it", "pairs"), found["licences"].items()))
    return "\n".join(lines)


def _validation(found: Mapping[str, float]) -> str:
    if not found:
        return "Not measured.\n"
    rows = [("loss", f"{found['loss']:.4f}")]
    rows += [(name.replace("_", " "), f"{100 * value:.1f} %") for name, value in found.items() if "@" in name]
    return _table(("", ""), rows)


def _table(head: tuple[str, str], rows: Any) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")

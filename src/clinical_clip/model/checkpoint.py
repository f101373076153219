"""A model in a folder that needs nothing else: config, weights, tokenizer, known answer, digests.

::

    model.json               config, digests of preprocessing, of each space of vectors, of the files
    model.safetensors        every parameter and buffer
    known_answer.safetensors what it says of made pictures and texts
    text/                    a BERT's config.json and tokenizer
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from clinical_clip.atomic import replace_file
from clinical_clip.errors import WeightsError
from clinical_clip.model.config import DualEncoderConfig
from clinical_clip.model.dual import DualEncoder
from clinical_clip.model.self_test import check_answer, known_answer
from clinical_clip.model.text_towers import BertTower
from clinical_clip.model.tokens import BertTokens
from clinical_clip.model.weights import file_sha256, load_strictly, read_state

__all__ = ["feature_digests", "load_model", "save_model"]

_REVISION = 1
_WEIGHTS, _ANSWER, _CARD = "model.safetensors", "known_answer.safetensors", "model.json"


def save_model(model: DualEncoder, folder: Path) -> str:
    """Write the model's folder; ``model.json``, which names the others' digests, comes last.

    Returns:
        SHA-256 (hex) of the weights file, the model's digest.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    files = {_WEIGHTS: save(state), _ANSWER: save(known_answer(model)), **_text_files(model)}
    for name, content in files.items():
        with replace_file(folder / name) as stream:
            stream.write(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    card = {
        "revision": _REVISION,
        "config": model.config.to_json(),
        "preprocessing": model.preprocess.digest,
        "features": feature_digests(model, digests[_WEIGHTS]),
        "width": model.width,
        "retrieval_width": model.retrieval_width,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": digests,
    }
    with replace_file(folder / _CARD) as stream:
        stream.write((json.dumps(card, indent=2) + "\n").encode())
    return digests[_WEIGHTS]


def feature_digests(model: DualEncoder, weights_sha256: str) -> dict[str, str]:
    """One digest for each space of vectors: an index of one must never be searched with another's queries.

    ``retrieval`` is what images are searched by; ``shared`` is behind both heads, for text and images
    together. They are the same where the retrieval feature is taken after the head.
    """
    kinds = {"retrieval": model.config.retrieval, "shared": "after_head"}
    return {
        name: hashlib.sha256(f"{weights_sha256}|{model.preprocess.digest}|{kind}".encode()).hexdigest()
        for name, kind in kinds.items()
    }


def load_model(folder: Path, *, self_test: bool = True) -> DualEncoder:
    """The model of a folder, in eval mode, on the CPU.

    Args:
        self_test: ask the known questions and compare the answers.

    Raises:
        WeightsError: a file is missing, damaged, of another version, or the self-test fails.
    """
    card = _read_card(folder)
    for name, digest in card["sha256"].items():
        _checked(folder, name, digest)
    config = DualEncoderConfig.from_json(card["config"]).without_weights()
    if config.text is not None and config.text.kind == "bert":
        config = replace(config, text=replace(config.text, source=str(folder / "text")))
    model = config.build()
    load_strictly(model, _tensors(folder, _WEIGHTS, card["sha256"]), where=str(folder / _WEIGHTS))
    model.eval()
    if self_test:
        check_answer(model, _tensors(folder, _ANSWER, card["sha256"]), where=str(folder))
    return model


def _text_files(model: DualEncoder) -> dict[str, bytes]:
    if not isinstance(model.text, BertTower) or not isinstance(model.text.tokens, BertTokens):
        return {}
    with tempfile.TemporaryDirectory() as temporary:
        model.text.body.config.save_pretrained(temporary)
        model.text.tokens.tokenizer.save_pretrained(temporary)
        return {f"text/{path.name}": path.read_bytes() for path in sorted(Path(temporary).iterdir())}


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / _CARD
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = card["revision"] == _REVISION and isinstance(card["sha256"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            "no readable model.json", where=str(folder), hint="give a folder that training wrote"
        ) from error
    if not known:
        raise WeightsError(
            "written by another version", where=str(path), hint="use the version that trained the model"
        )
    return card


def _checked(folder: Path, name: str, digest: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise WeightsError(f"{name} is missing", where=str(folder), hint="copy the whole folder again")
    if file_sha256(path) != digest:
        raise WeightsError(f"{name} is damaged", where=str(folder), hint="copy the whole folder again")
    return path


def _tensors(folder: Path, name: str, digests: Mapping[str, str]) -> dict[str, Tensor]:
    if name not in digests:
        raise WeightsError(f"{name} is missing", where=str(folder), hint="copy the whole folder again")
    return read_state(_checked(folder, name, digests[name]))

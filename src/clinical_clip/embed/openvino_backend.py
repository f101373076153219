"""An encoder folder (``encoder.json`` + ONNX) run by OpenVINO on the CPU.

One picture is one inference request, and as many run side by side as the CPU serves best. A
picture's vector therefore never depends on what stood beside it in a batch, and a query goes
through exactly the graph that made the index.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinical_clip.embed.encoder import l2_normalise
from clinical_clip.embed.known_answer import KnownAnswer, known_pictures
from clinical_clip.embed.preprocess import Preprocessing
from clinical_clip.errors import OptionError, TextUnsupported, VectorError, WeightsError

__all__ = ["OpenVinoEncoder", "Precision"]

Precision = Literal["auto", "f32", "bf16"]

_REINSTALL = "install the package again, or point --encoder at a complete encoder folder"


class OpenVinoEncoder:
    """The image tower of an encoder folder, on the CPU.

    Args:
        folder: holds ``encoder.json`` and the graph it names.
        precision: ``auto`` lets OpenVINO choose (bf16 where the CPU has it), unless ``encoder.json``
            says that bf16 strays too far from the original for this graph; or ``f32``, ``bf16``.

    Raises:
        WeightsError: a file is missing or its SHA-256 differs from ``encoder.json``.
    """

    def __init__(self, folder: Path, *, precision: Precision = "auto") -> None:
        card = _read_card(folder)
        self._folder = folder
        self._name = str(card["name"])
        self._width = int(card["width"])
        self._graph = _checked_file(folder, card["image"])
        self._digest = str(card["image"]["sha256"])
        self._preprocessing = Preprocessing(**card["preprocessing"])
        self._precision: Precision = card.get("auto_precision", "auto") if precision == "auto" else precision
        self._queue: Any = None
        self._runs_as = ""

    @property
    def name(self) -> str:
        """The encoder's short name."""
        return self._name

    @property
    def width(self) -> int:
        """D, the vectors' width."""
        return self._width

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the graph with its weights. Precision is no part of it: see ``runs_as``."""
        return self._digest

    @property
    def preprocessing(self) -> Preprocessing:
        """What brings pixels to the encoder's input."""
        return self._preprocessing

    @property
    def has_text(self) -> bool:
        """False: this graph has an image tower only."""
        return False

    @property
    def runs_as(self) -> str:
        """The precision in use, ``bf16`` or ``f32``. Compiles the graph at the first call."""
        self._compiled()
        return self._runs_as

    def encode_images(self, image_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, S, S, 3), preprocessed → float32 (B, D), each row of norm 1.

        Raises:
            OptionError: another dtype or shape.
            VectorError: the graph gave a vector that is not finite or is zero.
        """
        size = self._preprocessing.size
        if image_BHWC.dtype != np.uint8 or image_BHWC.shape[1:] != (size, size, 3):
            raise OptionError(
                f"pixels of shape {image_BHWC.shape} and dtype {image_BHWC.dtype}",
                where=f"encoder {self._name}",
                hint=f"pass uint8 (B, {size}, {size}, 3), made by encoder.preprocessing.apply",
            )
        embedding_BD = np.empty((len(image_BHWC), self._width), np.float32)
        queue = self._compiled()
        queue.set_callback(lambda request, row: _take(request, embedding_BD, row))
        for row, image_HWC in enumerate(image_BHWC):
            queue.start_async([np.ascontiguousarray(image_HWC[None])], userdata=row)
        queue.wait_all()
        unit_BD = l2_normalise(embedding_BD)
        if not np.isfinite(unit_BD).all() or not unit_BD.any(axis=1).all():
            raise VectorError(
                "a vector that is zero or not finite",
                where=f"encoder {self._name}",
                hint="run the encoder's self-test with `clinical-clip encoder check`",
            )
        return unit_BD

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Always raises TextUnsupported: there is no text tower in this folder."""
        raise TextUnsupported(
            f"{len(texts)} text(s) for an encoder without a text tower",
            where=f"encoder {self._name}",
            hint="search by image or by id, or use an encoder with a text tower",
        )

    def self_test(self) -> KnownAnswer:
        """Encode the made pictures and compare with the original's stored answers.

        Raises:
            WeightsError: the folder holds no stored answers.
        """
        path = self._folder / "known_answer.npy"
        if not path.is_file():
            raise WeightsError("no stored answers to compare with", where=str(path), hint=_REINSTALL)
        original_BD = np.load(path, allow_pickle=False)
        return KnownAnswer.of(self.encode_images(known_pictures(self._preprocessing.size)), original_BD)

    def _compiled(self) -> Any:
        if self._queue is None:
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            import openvino as ov

            core = ov.Core()
            model = core.read_model(self._graph)
            size = self._preprocessing.size
            model.reshape([1, size, size, 3])
            config = {"PERFORMANCE_HINT": "THROUGHPUT"}
            if self._precision != "auto":
                config["INFERENCE_PRECISION_HINT"] = self._precision
            compiled = core.compile_model(model, "CPU", config)
            element = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            self._runs_as = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(element, element)
            self._queue = ov.AsyncInferQueue(compiled)
        return self._queue


def _take(request: Any, embedding_BD: NDArray[np.float32], row: int) -> None:
    embedding_BD[row] = request.get_output_tensor(0).data[0]


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / "encoder.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        missing = {"name", "width", "image", "preprocessing"} - set(card)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"cannot be read as an encoder: {type(error).__name__}", where=str(path), hint=_REINSTALL
        ) from error
    if missing:
        raise WeightsError(f"fields missing: {sorted(missing)}", where=str(path), hint=_REINSTALL)
    return dict(card)


def _checked_file(folder: Path, entry: dict[str, str]) -> Path:
    path = folder / Path(entry["file"]).name
    if not path.is_file():
        raise WeightsError("the graph is missing", where=str(path), hint=_REINSTALL)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != entry["sha256"]:
        raise WeightsError(
            f"SHA-256 {found[:12]}…, expected {entry['sha256'][:12]}…", where=str(path), hint=_REINSTALL
        )
    return path

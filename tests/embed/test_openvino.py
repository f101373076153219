from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import clinical_clip
from clinical_clip.embed.encoder import Encoder
from clinical_clip.embed.encoders import open_encoder
from clinical_clip.embed.known_answer import KnownAnswer, known_pictures
from clinical_clip.embed.openvino_backend import OpenVinoEncoder
from clinical_clip.errors import EncoderNotFound, OptionError, TextUnsupported, WeightsError

WEIGHTS = Path(clinical_clip.__file__).parent / "weights" / "imagenet-lite0"


@pytest.fixture(scope="module")
def encoder() -> OpenVinoEncoder:
    return open_encoder()


def test_it_meets_the_protocol(encoder: OpenVinoEncoder) -> None:
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.width, encoder.has_text) == ("imagenet-lite0", 1280, False)


def test_cosine_to_the_torch_original(encoder: OpenVinoEncoder) -> None:
    answer = encoder.self_test()
    assert encoder.runs_as == "f32"
    assert answer.cosine_min >= 0.999
    assert answer.spread < 0.95  # different pictures get different vectors


def test_a_wrong_encoder_fails_the_self_test(encoder: OpenVinoEncoder) -> None:
    original_BD = np.load(WEIGHTS / "known_answer.npy")
    swapped = encoder.encode_images(known_pictures(224)[::-1])
    assert KnownAnswer.of(swapped, original_BD).cosine_min < 0.999


def test_a_vector_does_not_depend_on_its_batch(encoder: OpenVinoEncoder) -> None:
    pictures = known_pictures(224)
    together = encoder.encode_images(pictures)
    alone = np.concatenate([encoder.encode_images(picture[None]) for picture in pictures])
    assert np.array_equal(together, alone)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_black_gray_and_white_have_finite_unit_vectors(encoder: OpenVinoEncoder) -> None:
    flat = np.stack([np.full((224, 224, 3), value, np.uint8) for value in (0, 128, 255)])
    assert np.allclose(np.linalg.norm(encoder.encode_images(flat), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 200, 224, 3), np.uint8),
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((224, 224, 3), np.uint8),
    ],
)
def test_pixels_that_are_not_prepared_are_refused(encoder: OpenVinoEncoder, pixels: np.ndarray) -> None:
    with pytest.raises(OptionError, match="pixels of shape"):
        encoder.encode_images(pixels)


def test_there_is_no_text_tower(encoder: OpenVinoEncoder) -> None:
    with pytest.raises(TextUnsupported, match="without a text tower"):
        encoder.encode_texts(["CT of the chest"])


def test_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "copy")
    graph = folder / "image.onnx"
    damaged = bytearray(graph.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    graph.write_bytes(damaged)
    with pytest.raises(WeightsError, match="SHA-256"):
        open_encoder(str(folder))


@pytest.mark.parametrize("name", ["image.onnx", "encoder.json"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(WeightsError) as caught:
        OpenVinoEncoder(folder)
    assert name in str(caught.value)


def test_a_graph_outside_its_folder_is_not_opened(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "copy")
    card = json.loads((folder / "encoder.json").read_text())
    (tmp_path / "elsewhere.onnx").write_bytes((folder / "image.onnx").read_bytes())
    card["image"]["file"] = "../elsewhere.onnx"
    (folder / "encoder.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="missing"):
        OpenVinoEncoder(folder)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(EncoderNotFound, match="imagenet-lite0"):
        open_encoder("no-such-encoder")

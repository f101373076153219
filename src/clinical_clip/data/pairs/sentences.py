"""Captions cut into sentences: ConVIRT shows the model one of them at random in each step."""

from __future__ import annotations

import random
import re

__all__ = ["sample_sentence", "split_sentences"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ABBREVIATIONS = _words(
    "fig figs eq ref refs no nos vs v cf ca approx resp etc al viz dr mr mrs ms prof st inc ltd co dept "
    "e.g i.e a.m p.m i.v i.m u.s a.k.a jr sr vol pp p pt pts yr yrs mo wk hr hrs min sec max est "
    "ant post sup inf lat med rt lt temp tab suppl sect ch art ed eds jan feb mar apr jun jul aug sep sept "
    "oct nov dec ph.d m.d b.i.d t.i.d q.d p.o"
)
_BREAKS_NOT_BEFORE_DIGITS = _words("fig figs no nos ref refs eq p pp vol tab ca approx ch sect v")
_ENDS_A_SENTENCE_TOO = _words("no etc al a.m p.m i.v i.m p.o yr yrs mo wk hr hrs min sec max pt pts")
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+|$)")
_OPENING = "\"'“‘(["
_PANEL = re.compile(r"\(?[a-z]\)")
_NUMBER = re.compile(r"[(\[]?([0-9]|[IVX]+\b)")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")
_MIN_LETTERS = 3


def split_sentences(caption: str) -> list[str]:
    """The sentences of a caption, in order, without losing a character but white space.

    A full stop does not end a sentence after an abbreviation (``Fig. 1``, ``vs.``), inside a number
    (``2.5 cm``), after an initial (``J. Smith``), or where a small letter follows. A piece without three
    letters, such as ``(a).``, stays with its neighbour. A caption without a stop is one sentence; an empty
    one has none.

    >>> split_sentences("CT (Fig. 1) shows a 2.5 cm mass. No edema vs. prior.")
    ['CT (Fig. 1) shows a 2.5 cm mass.', 'No edema vs. prior.']
    """
    text = " ".join(caption.split())
    pieces: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if match.end() < len(text) and _ends(text, start, match):
            pieces.append(text[start : match.end()])
            start = match.end() + 1
    pieces.append(text[start:])
    return _joined([piece.strip() for piece in pieces if piece.strip()])


def sample_sentence(caption: str, rng: random.Random) -> str:
    """One sentence, each as likely as another; the caption itself where it has none or one.

    >>> sample_sentence("Chest radiograph.", random.Random(0))
    'Chest radiograph.'
    """
    sentences = split_sentences(caption)
    return sentences[rng.randrange(len(sentences))] if sentences else caption


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the punctuation at ``match`` ends the sentence that began at ``start``."""
    follows = text[match.end() + 1 :]
    following = follows.lstrip(_OPENING)[:1]
    if following.islower() and not _PANEL.match(follows):
        return False
    if match.group()[0] != ".":
        return True
    last = _LAST_WORD.search(text, start, match.start())
    word = last.group().lower() if last else ""
    if word not in _ABBREVIATIONS:
        word = word.rpartition(".")[2]  # a blank was forgotten: "8 kg.Fig. 1"
    if word in _BREAKS_NOT_BEFORE_DIGITS and _NUMBER.match(follows):
        return False
    if word in _ENDS_A_SENTENCE_TOO:
        return not following.isdigit()
    if word in _ABBREVIATIONS:
        return False
    return not (len(word) == 1 and word.isalpha() and last is not None and last.group().isupper())


def _joined(pieces: list[str]) -> list[str]:
    """Pieces too short to be sentences put to the one before, or to the next where they come first."""
    sentences: list[str] = []
    held = ""
    for piece in pieces:
        held = f"{held} {piece}" if held else piece
        if sum(one.isalpha() for one in held) >= _MIN_LETTERS:
            sentences.append(held)
            held = ""
    if held and sentences:
        sentences[-1] = f"{sentences[-1]} {held}"
    elif held:
        sentences.append(held)
    return sentences

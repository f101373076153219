"""Pairs of an image and its caption, out of the data sets that have them."""

from clinical_clip.data.pairs.open import open_pairs
from clinical_clip.data.pairs.pair import Pair, PairSet, RowProblem
from clinical_clip.data.pairs.sentences import sample_sentence, split_sentences

__all__ = ["Pair", "PairSet", "RowProblem", "open_pairs", "sample_sentence", "split_sentences"]

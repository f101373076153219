from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clinical_clip.data.pairs import PairSet, split_sentences
from clinical_clip.errors import TrainingError
from clinical_clip.model.preprocess import ImagePreprocessing
from clinical_clip.model.tokens import ClipTokens
from clinical_clip.train.config import DataConfig
from clinical_clip.train.data import PairDataset, PairLoader, text_key
from clinical_clip.train.sampler import BatchSampler, Position
from clinical_clip.train.validate import validation_batches

PREPROCESSING = ImagePreprocessing(size=32)
CONVIRT = DataConfig(augmentation="convirt", caption="sentence")


def dataset(made: PairSet, config: DataConfig = CONVIRT, seed: int = 3) -> PairDataset:
    return PairDataset(made, config=config, preprocessing=PREPROCESSING, seed=seed)


def test_an_item_depends_on_seed_epoch_and_index_alone(made: PairSet) -> None:
    one, again = dataset(made), dataset(made)
    for _ in range(3):
        again[(0, 1)]
    assert torch.equal(one[(2, 5)].image_HWC, again[(2, 5)].image_HWC)
    assert not torch.equal(one[(2, 5)].image_HWC, one[(3, 5)].image_HWC)
    assert not torch.equal(one[(2, 5)].image_HWC, dataset(made, seed=4)[(2, 5)].image_HWC)


def test_every_sentence_is_seen_over_epochs(made: PairSet) -> None:
    source = dataset(made)
    seen = {source[(epoch, 0)].text for epoch in range(30)}
    assert seen == set(split_sentences(made.pairs[0].caption))
    assert len(seen) == 2


def test_clip_families_see_the_plain_picture_and_the_whole_caption(made: PairSet) -> None:
    from clinical_clip.data.pairs.pixels import load_pair_pixels

    item = dataset(made, DataConfig())[(7, 4)]
    assert item.text == made.pairs[4].caption
    expected = PREPROCESSING.square(load_pair_pixels(made.pairs[4]))
    assert torch.equal(item.image_HWC, torch.from_numpy(expected))


def test_pairs_without_an_image_are_left_out(made: PairSet) -> None:
    from pathlib import Path

    pairs = [replace(pair, image=Path()) if n % 2 else pair for n, pair in enumerate(made)]
    half = PairSet(name="half", pairs=tuple(pairs))
    assert len(dataset(half)) == 24
    none = PairSet(name="none", pairs=tuple(replace(pair, image=Path()) for pair in made))
    with pytest.raises(TrainingError, match="no pair has an image"):
        dataset(none)


def test_batches_name_their_pairs_and_equal_texts(made: PairSet) -> None:
    source = dataset(made, DataConfig())
    sampler = BatchSampler(length=len(source), batch_size=16, seed=0)
    sampler.start_at(Position(epoch=1, batch=1))
    loader = PairLoader(source, sampler, tokens=ClipTokens(), workers=0)
    batches = list(loader)
    assert [batch.index_B.tolist() for batch in batches] == [
        [index for _, index in batch] for batch in sampler
    ]
    batch = batches[0]
    assert batch.image_BHWC.shape == (16, 32, 32, 3)
    assert batch.image_BHWC.dtype == torch.uint8
    captions = [made.pairs[index].caption for index in batch.index_B.tolist()]
    same = batch.text_key_B[:, None] == batch.text_key_B[None]
    assert same.tolist() == [[one == other for other in captions] for one in captions]


def test_opening_a_loader_draws_nothing_from_the_run(made: PairSet) -> None:
    source = dataset(made)
    before = torch.get_rng_state()
    list(PairLoader(source, [[(0, 1), (0, 2)]], tokens=ClipTokens(), workers=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_text_keys_ignore_white_space_and_fit_int64() -> None:
    assert text_key("a  b\n") == text_key("a b") != text_key("ab")
    assert 0 <= text_key("x") < 2**63


def test_validation_is_whole_batches_in_an_order_of_its_own(made: PairSet) -> None:
    source = dataset(made)
    batches = validation_batches(source, 10)
    assert [len(batch) for batch in batches] == [10] * 4
    shuffled = PairSet(name="shuffled", pairs=made.pairs[::-1])
    other = dataset(shuffled)
    ids = [[source.pairs[i].pair_id for _, i in batch] for batch in batches]
    assert [[other.pairs[i].pair_id for _, i in batch] for batch in validation_batches(other, 10)] == ids
    assert [len(batch) for batch in validation_batches(source, 1000)] == [48]

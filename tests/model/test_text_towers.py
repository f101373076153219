from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clinical_clip.errors import OptionError
from clinical_clip.model.config import Pooling, TextTowerConfig
from clinical_clip.model.text_towers import BertTower, TextTower, pool
from clinical_clip.model.tokens import ClipTokens, TokenBatch
from tests.model.make import TEXTS, peer, write_archive


def bert(pooling: Pooling = "pooler", **options: object) -> TextTower:
    torch.manual_seed(0)
    return TextTowerConfig(kind="bert", architecture="tiny-bert", pooling=pooling, **options).build()


def clip_text(**options: object) -> TextTower:
    torch.manual_seed(0)
    values = {"architecture": "tiny-clip", "pooling": "eot", "max_tokens": 16, **options}
    return TextTowerConfig(kind="clip", **values).build()


def test_clip_text_equals_open_clip_with_the_same_weights(tmp_path: Path) -> None:
    theirs = peer()
    tower = clip_text(weights=write_archive(tmp_path / "x.pt", theirs), max_tokens=32).eval()
    tokens = tower.tokens(TEXTS)
    whole_BL = torch.zeros(3, 32, dtype=torch.int64)
    whole_BL[:, : tokens.ids_BL.shape[1]] = tokens.ids_BL
    with torch.no_grad():
        assert torch.allclose(tower(tokens), theirs.encode_text(whole_BL), atol=1e-6)


def test_clip_tokens_are_open_clips_with_the_end_token_kept() -> None:
    from open_clip import tokenizer

    texts = ["Chest X-ray.", "an axial CT image of the abdomen shows " * 20, ""]
    batch = ClipTokens()(texts)
    expected = tokenizer.tokenize(texts)
    assert torch.equal(batch.ids_BL, expected[:, : batch.ids_BL.shape[1]])
    assert not expected[:, batch.ids_BL.shape[1] :].any()
    assert batch.ids_BL[1, 76].item() == 49407
    assert batch.truncated == 1


@pytest.mark.parametrize("pooling", ["pooler", "mean", "max", "cls"])
def test_bert_equals_transformers(pooling: Pooling) -> None:
    tower = bert(pooling).eval()
    tokens = tower.tokens(TEXTS)
    with torch.no_grad():
        out = tower.body(input_ids=tokens.ids_BL, attention_mask=tokens.mask_BL.long())
        rows = [
            {
                "mean": state[:length].mean(dim=0),
                "max": state[:length].max(dim=0).values,
                "cls": state[0],
                "pooler": state[0] if out.pooler_output is None else out.pooler_output[number],
            }[pooling]
            for number, (state, length) in enumerate(
                zip(out.last_hidden_state, tokens.mask_BL.sum(dim=1), strict=True)
            )
        ]
        assert torch.allclose(tower(tokens), torch.stack(rows), atol=1e-6)


@pytest.mark.parametrize("pooling", ["pooler", "mean", "max", "cls"])
def test_padding_changes_nothing(pooling: Pooling) -> None:
    tower = bert(pooling).eval()
    with torch.no_grad():
        together = tower(tower.tokens(TEXTS))
        alone = torch.cat([tower(tower.tokens([text])) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-5)


def test_clip_padding_changes_nothing() -> None:
    tower = clip_text().eval()
    with torch.no_grad():
        alone = torch.cat([tower(tower.tokens([text])) for text in TEXTS])
        assert torch.allclose(tower(tower.tokens(TEXTS)), alone, atol=1e-5)


def test_max_pool_ignores_padding_even_where_it_is_largest() -> None:
    x_BLW = torch.tensor([[[1.0, -5.0], [0.0, -7.0], [99.0, 99.0]]])
    mask_BL = torch.tensor([[True, True, False]])
    assert pool(x_BLW, mask_BL, "max").tolist() == [[1.0, -5.0]]
    assert pool(x_BLW, mask_BL, "mean").tolist() == [[0.5, -6.0]]


def with_gradient(tower: nn.Module) -> set[str]:
    return {name for name, p in tower.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_frozen_bert_layers_take_no_gradient(frozen: int) -> None:
    tower = bert(frozen_layers=frozen)
    tower(tower.tokens(TEXTS)).square().sum().backward()
    reached = with_gradient(tower)
    layers = {int(name.split(".")[3]) for name in reached if ".layer." in name}
    assert layers == set(range(frozen, 3))
    assert any("embeddings" in name for name in reached) == (frozen == 0)
    assert any("pooler" in name for name in reached)


def test_frozen_clip_layers_take_no_gradient() -> None:
    tower = clip_text(frozen_layers=1)
    tower(tower.tokens(TEXTS)).square().sum().backward()
    reached = with_gradient(tower)
    assert not any("embedding" in name or "resblocks.0" in name for name in reached)
    assert any("resblocks.1" in name for name in reached)


def test_the_frozen_part_has_no_dropout_and_the_rest_has() -> None:
    tower = bert(frozen_layers=2)
    tokens = tower.tokens(TEXTS)
    assert torch.equal(tower.lower(tokens), tower.lower(tokens))
    hidden = tower.lower(tokens)
    assert not torch.equal(tower.upper(hidden, tokens), tower.upper(hidden, tokens))
    tower.eval().train()
    assert torch.equal(tower.lower(tokens), tower.lower(tokens))


def test_what_is_frozen_can_be_computed_once() -> None:
    tower = bert(frozen_layers=2).eval()
    tokens = tower.tokens(TEXTS)
    kept = tower.lower(tokens).detach().clone()
    assert torch.equal(tower.upper(kept, tokens), tower(tokens))


def test_bert_keeps_its_end_token_and_counts_what_it_cuts() -> None:
    tower = bert(max_tokens=8)
    batch = tower.tokens(["CT", "a much longer text than that"])
    separator = tower.tokens.tokenizer.sep_token_id
    assert batch.ids_BL.shape == (2, 8)
    assert batch.ids_BL[1, -1].item() == separator
    assert batch.truncated == 1
    assert batch.mask_BL[0].tolist() == [True] * 4 + [False] * 4
    assert tower.tokens.count("CT") == 4


def test_a_batch_is_as_long_as_its_longest() -> None:
    tower = bert()
    assert tower.tokens(["CT", "MRI"]).ids_BL.shape == (2, 5)


def test_slices_of_tokens_drop_columns_of_padding() -> None:
    batch = bert().tokens(["CT", "MRI", "radiograph"])
    part = batch[0:2]
    assert isinstance(part, TokenBatch)
    assert part.ids_BL.shape == (2, 5)
    assert part.mask_BL.sum(dim=1).tolist() == [4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "clip", "architecture": "RN50", "pooling": "mean"}, "does not go with a clip"),
        ({"kind": "bert", "pooling": "eot"}, "does not go with a bert"),
        ({"kind": "clip", "architecture": "tiny-bert", "pooling": "eot"}, "is not a clip text tower"),
        ({"kind": "bert", "frozen_layers": -1}, "at least 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TextTowerConfig(**options)


def test_more_frozen_layers_or_tokens_than_there_are_is_refused() -> None:
    with pytest.raises(OptionError, match="4 frozen layers of 3"):
        bert(frozen_layers=4)
    with pytest.raises(OptionError, match="513 tokens"):
        bert(max_tokens=513)
    with pytest.raises(OptionError, match="33 tokens"):
        clip_text(max_tokens=33)


def minilm() -> TextTower:
    from clinical_clip.model.methods import minilm_folder

    return TextTowerConfig(kind="bert", source=minilm_folder(), pooling="mean", frozen_layers=6).build()


def test_minilm_equals_transformers_own_loading() -> None:
    from transformers import AutoModel, AutoTokenizer

    from clinical_clip.model.methods import minilm_folder

    tower = minilm().eval()
    assert isinstance(tower, BertTower)
    theirs = AutoModel.from_pretrained(minilm_folder()).eval()
    asked = AutoTokenizer.from_pretrained(minilm_folder())(TEXTS, padding=True, return_tensors="pt")
    tokens = tower.tokens(TEXTS)
    assert torch.equal(tokens.ids_BL, asked["input_ids"])
    with torch.no_grad():
        states: Tensor = theirs(**asked).last_hidden_state
        weight = asked["attention_mask"][..., None].float()
        expected = (states * weight).sum(1) / weight.sum(1)
        assert torch.allclose(tower(tokens), expected, atol=1e-6)

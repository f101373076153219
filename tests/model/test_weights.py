from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clinical_clip.errors import WeightsError
from clinical_clip.model.bert import resolve_source
from clinical_clip.model.config import ImageTowerConfig, TextTowerConfig, WeightsSpec
from clinical_clip.model.provenance import weights_used
from clinical_clip.model.torchscript import is_torchscript, read_torchscript
from clinical_clip.model.weights import (
    OPENAI_SHA256,
    archive_logit_scale,
    file_sha256,
    load_strictly,
    read_state,
    state_sha256,
)
from tests.model.make import TEXTS, bert_config, clip_config, peer, write_archive

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "clinical_clip"


def jit_state(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return dict(torch.jit.load(path).state_dict())


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[n].dtype == v.dtype and found[n].shape == v.shape and torch.equal(found[n], v)
        for n, v in expected.items()
    )


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return Path(write_archive(tmp_path / "openai" / "tiny.pt", peer("tiny-resnet")).path)


def test_an_archive_reads_as_torch_jit_reads_it(archive: Path) -> None:
    found = read_torchscript(archive)
    assert same(found, jit_state(archive))
    assert found["visual.layer1.0.conv1.weight"].dtype == torch.float16
    assert found["visual.bn1.weight"].dtype == torch.float32
    assert {n: found[n].item() for n in ("input_resolution", "context_length", "vocab_size")} == {
        "input_resolution": 64,
        "context_length": 32,
        "vocab_size": 512,
    }


def test_a_traced_clip_reads_as_torch_jit_reads_it(tmp_path: Path) -> None:
    """As OpenAI made theirs: by tracing the running model, code and constants in the archive."""
    model = peer("tiny-vit")
    images, texts = torch.randn(2, 3, 32, 32), torch.randint(1, 500, (2, 32))
    path = tmp_path / "traced.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(
            model,
            {"forward": (images, texts), "encode_image": (images,), "encode_text": (texts,)},
            check_trace=False,
        )
        torch.jit.save(traced, path)
    found = read_torchscript(path)
    expected = jit_state(path)
    assert len(expected) > 50
    assert same(found, expected)
    spec = WeightsSpec(format="openai", path=str(path))
    tower = ImageTowerConfig(architecture="tiny-vit", weights=spec).build().eval()
    with torch.no_grad():
        assert torch.equal(tower(images), model.encode_image(images))


class Odd(nn.Module):
    """Views, shared storages, empty tensors, every attribute kind."""

    def __init__(self) -> None:
        super().__init__()
        base = torch.arange(24, dtype=torch.float32)
        self.register_buffer("view", base.reshape(4, 6).t())
        self.register_buffer("part", base[3:9])
        self.register_buffer("scalar", torch.tensor(7))
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("brain", torch.tensor([1.5], dtype=torch.bfloat16))
        self.names = ["a", "b"]
        self.sizes = {"x": 1, "y": 2}
        self.pair = (1, 2.5)
        self.note = "text"
        self.constant = torch.tensor([9.0])  # no buffer, so no part of the state

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part[0] + self.constant + self.sizes["x"] + self.pair[0]


def test_views_shared_storages_and_odd_attributes(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(Odd()), path)
    assert same(read_torchscript(path), jit_state(path))


def test_only_what_is_wanted_is_read(archive: Path) -> None:
    found = read_torchscript(archive, wanted=lambda name: name == "logit_scale")
    assert list(found) == ["logit_scale"]


def rewritten(archive: Path, changes: dict[str, bytes]) -> Path:
    """The archive with other contents for members whose names end so."""
    out = archive.with_name("changed.pt")
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = next((c for end, c in changes.items() if name.endswith(end)), source.read(name))
            target.writestr(name, content)
    return out


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/clinical-clip-was-here",)


def test_a_call_in_an_archive_is_never_made(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(os, "system", made.append)
    for protocol in (2, 3, 4):
        changed = rewritten(archive, {"/data.pkl": pickle.dumps({"visual": Evil()}, protocol)})
        with suppress(WeightsError):
            assert read_torchscript(changed) == {}  # a call is a record that holds no tensors
    assert made == []


def test_a_call_in_a_plain_file_is_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(os, "system", made.append)
    torch.save({"weight": torch.ones(1), "evil": Evil()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_state(tmp_path / "x.pth")
    assert made == []


def test_damaged_archives_are_typed_errors_or_exact(archive: Path) -> None:
    whole = archive.read_bytes()
    expected = read_torchscript(archive)
    rng = np.random.default_rng(0)
    outcomes = {"refused": 0, "exact": 0}
    for round_number in range(60):
        broken = bytearray(whole)
        if round_number % 3 == 0:
            del broken[int(rng.integers(1, len(broken))) :]
        else:
            # in the pickle or the directory at the end, where the structure is
            with zipfile.ZipFile(archive) as source:
                start = source.infolist()[0].header_offset
            near = len(broken) - 9000 if round_number % 3 == 1 else start
            for _ in range(4):
                broken[near + int(rng.integers(0, 9000))] ^= int(rng.integers(1, 256))
        path = archive.with_name("broken.pt")
        path.write_bytes(broken)
        try:
            found = read_state(path)
        except WeightsError:
            outcomes["refused"] += 1
        else:
            # zip checks every member it reads; what is left are bytes that nothing reads
            outcomes["exact"] += same(found, expected) or found.keys() != expected.keys()
    assert outcomes["refused"] > 30


def test_a_tensor_may_not_reach_beyond_its_storage(archive: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        [short] = [n for n in source.namelist() if n.endswith("/data/3")]
        size = source.getinfo(short).file_size
    with pytest.raises(WeightsError, match="not a whole"):
        read_torchscript(rewritten(archive, {"/data/3": b"\0" * (size // 2)}))


def test_kinds_of_files_are_told_apart(archive: Path, tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1)}, tmp_path / "plain.pt")
    (tmp_path / "not.pt").write_bytes(b"hello")
    assert [is_torchscript(p) for p in (archive, tmp_path / "plain.pt", tmp_path / "not.pt")] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("kind", ["plain", "nested", "parallel", "safetensors"])
def test_other_files_with_openai_names_load_the_same(kind: str, archive: Path, tmp_path: Path) -> None:
    state = read_torchscript(archive)
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        prefix = "module." if kind == "parallel" else ""
        plain = OrderedDict((prefix + name, value) for name, value in state.items())
        torch.save({"state_dict": plain} if kind == "nested" else plain, path)
    spec = WeightsSpec(format="openai", path=str(path))
    ours = ImageTowerConfig(architecture="tiny-resnet", weights=spec).build()
    archived = WeightsSpec(format="openai", path=str(archive))
    theirs = ImageTowerConfig(architecture="tiny-resnet", weights=archived).build()
    assert same(dict(ours.state_dict()), dict(theirs.state_dict()))


def test_whole_clip_goes_on_from_the_archives_scale(tmp_path: Path) -> None:
    theirs = peer("tiny-vit")
    spec = write_archive(tmp_path / "x.pt", theirs)
    from clinical_clip.model.config import LogitScaleConfig

    config = clip_config(
        image=ImageTowerConfig(architecture="tiny-vit", weights=spec),
        text=TextTowerConfig(
            kind="clip", architecture="tiny-clip", pooling="eot", max_tokens=16, weights=spec
        ),
        logit_scale=LogitScaleConfig(init=None),
    )
    assert config.build().logit_scale.item() == 3.25
    assert archive_logit_scale(spec).item() == 3.25


def test_what_does_not_fit_is_named(archive: Path, tmp_path: Path) -> None:
    state = read_torchscript(archive)
    path = tmp_path / "x.safetensors"

    def build() -> None:
        spec = WeightsSpec(format="openai", path=str(path))
        ImageTowerConfig(architecture="tiny-resnet", weights=spec).build()

    missing = {n: v for n, v in state.items() if n != "visual.bn1.weight"}
    save_file(missing, path)
    with pytest.raises(WeightsError, match=r"missing bn1\.weight"):
        build()
    save_file({**state, "visual.extra": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="unexpected extra"):
        build()
    save_file({**state, "adapter.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"unexpected adapter\.weight"):
        build()
    save_file({**state, "visual.bn1.weight": torch.ones(5)}, path)
    with pytest.raises(WeightsError, match=r"bn1\.weight \(5,\), not \(4,\)"):
        build()


def test_the_archive_of_another_architecture_is_refused(tmp_path: Path) -> None:
    spec = write_archive(tmp_path / "x.pt", peer("tiny-vit"))
    with pytest.raises(WeightsError, match=r"missing .* and \d+ more; unexpected"):
        ImageTowerConfig(architecture="tiny-resnet", weights=spec).build()


def test_nothing_is_loaded_when_something_does_not_fit() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    with pytest.raises(WeightsError):
        load_strictly(layer, {"weight": torch.ones(2, 2), "other": torch.ones(1)}, where="x")
    assert torch.equal(layer.weight, before)


def test_batch_counters_may_be_absent() -> None:
    layer = nn.BatchNorm2d(3)
    state = {n: v + 1 for n, v in layer.state_dict().items() if n != "num_batches_tracked"}
    load_strictly(layer, state, where="x")
    assert layer.running_mean.tolist() == [1, 1, 1]


def test_a_missing_file_says_what_to_get_and_where_to_put_it(tmp_path: Path) -> None:
    spec = WeightsSpec(format="openai", path=str(tmp_path / "openai" / "RN50.pt"))
    with pytest.raises(WeightsError) as caught:
        ImageTowerConfig(architecture="RN50", weights=spec).build()
    assert "RN50.pt is missing" in str(caught.value)
    assert OPENAI_SHA256["RN50"] in caught.value.hint
    assert str(tmp_path / "openai" / "RN50.pt") in caught.value.hint


def test_the_digest_is_compared(archive: Path) -> None:
    good = file_sha256(archive)
    assert good == hashlib.sha256(archive.read_bytes()).hexdigest()
    kept = WeightsSpec(format="openai", path=str(archive), sha256=good)
    ImageTowerConfig(architecture="tiny-resnet", weights=kept).build()
    other = WeightsSpec(format="openai", path=str(archive), sha256="0" * 64)
    with pytest.raises(WeightsError, match=f"SHA-256 is {good}"):
        ImageTowerConfig(architecture="tiny-resnet", weights=other).build()


def test_a_digest_is_computed_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = file_sha256(path)
    path.write_bytes(b"other")
    assert file_sha256(path) != first


def test_state_digest_sees_names_types_shapes_and_values() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.tensor(1)}
    assert state_sha256(base) == state_sha256(dict(reversed(base.items())))
    others = [
        {**base, "a": torch.zeros(3, 2)},
        {**base, "a": torch.zeros(2, 3, dtype=torch.float16)},
        {**base, "b": torch.tensor(2)},
        {"c": base["a"], "b": base["b"]},
    ]
    assert len({state_sha256(one) for one in [base, *others]}) == 5


def test_torchvisions_file_loads_without_its_classifier(tmp_path: Path) -> None:
    from torchvision.models import resnet50

    torch.manual_seed(4)
    theirs = resnet50(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet50-imagenet.pth")
    spec = WeightsSpec(format="torchvision", path=str(tmp_path / "resnet50-imagenet.pth"))
    tower = ImageTowerConfig(architecture="resnet50", weights=spec).build()
    assert torch.equal(tower.body.layer4[2].conv3.weight, theirs.layer4[2].conv3.weight)
    assert not any("fc" in name for name in tower.state_dict())


def test_lite0_loads_and_equals_its_own_loader() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    from clinical_clip.model.methods import lite0_weights

    spec = lite0_weights()
    tower = ImageTowerConfig(architecture="efficientnet-lite0", weights=spec).build().eval()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=spec.path).eval()
    image_BCHW = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.extract_features(image_BCHW).mean(dim=(2, 3))
        assert torch.equal(tower(image_BCHW), expected)


def write_bert(folder: Path, *, form: str) -> nn.Module:
    """A small BERT's folder as the hub has them: ``safetensors`` of today, or a ``bin`` of 2019."""
    from transformers import BertConfig, BertForPreTraining

    from clinical_clip.model.bert import BERT_SHAPES, character_vocabulary

    torch.manual_seed(8)
    model = BertForPreTraining(BertConfig(**BERT_SHAPES["tiny-bert"]))
    folder.mkdir()
    model.config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(character_vocabulary()) + "\n")
    if form == "safetensors":
        save_file(
            {n: v.contiguous() for n, v in model.bert.state_dict().items()}, folder / "model.safetensors"
        )
    else:
        state = {
            n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for n, v in model.state_dict().items()
        }
        state["bert.embeddings.position_ids"] = torch.arange(512)[None]
        torch.save(state, folder / "pytorch_model.bin")
    return model.bert.eval()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("pooling", ["pooler", "max"])
def test_berts_folder_loads(form: str, pooling: str, tmp_path: Path) -> None:
    theirs = write_bert(tmp_path / "bert", form=form)
    config = TextTowerConfig(kind="bert", source=str(tmp_path / "bert"), pooling=pooling)
    tower = config.build().eval()
    tokens = tower.tokens(TEXTS[:1])
    with torch.no_grad():
        out = theirs(input_ids=tokens.ids_BL)
        expected = out.pooler_output if pooling == "pooler" else out.last_hidden_state.amax(dim=1)
        assert torch.allclose(tower(tokens), expected, atol=1e-6)


def test_a_berts_missing_layer_is_named(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", form="bin")
    state = torch.load(tmp_path / "bert" / "pytorch_model.bin", weights_only=True)
    del state["bert.encoder.layer.1.output.dense.bias"]
    torch.save(state, tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"missing encoder\.layer\.1\.output\.dense\.bias"):
        TextTowerConfig(kind="bert", source=str(tmp_path / "bert")).build()


def test_a_pooler_that_is_needed_must_be_there(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", form="bin")
    path = tmp_path / "bert" / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    torch.save({n: v for n, v in state.items() if "pooler" not in n}, path)
    source = str(tmp_path / "bert")
    with pytest.raises(WeightsError, match=r"missing pooler\.dense"):
        TextTowerConfig(kind="bert", source=source, pooling="pooler").build()
    TextTowerConfig(kind="bert", source=source, pooling="max").build()


def test_half_precision_folders_become_float32(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", form="safetensors")
    config = tmp_path / "bert" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "dtype": "float16", "torch_dtype": "float16"}))
    tower = TextTowerConfig(kind="bert", source=str(tmp_path / "bert")).build()
    assert {p.dtype for p in tower.parameters()} == {torch.float32}


def test_what_a_model_starts_from_is_recorded(archive: Path, tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", form="bin")
    spec = WeightsSpec(format="openai", path=str(archive))
    config = bert_config(
        image=ImageTowerConfig(architecture="tiny-resnet", weights=spec),
        text=TextTowerConfig(kind="bert", source=str(tmp_path / "bert")),
    )
    assert weights_used(config) == {
        "openai/tiny.pt": file_sha256(archive),
        "bert/pytorch_model.bin": file_sha256(tmp_path / "bert" / "pytorch_model.bin"),
    }
    assert weights_used(clip_config()) == {}


def test_case_follows_the_folder_and_can_be_set(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", form="safetensors")

    def ids(lowercase: bool | None) -> list[int]:
        config = TextTowerConfig(kind="bert", source=str(tmp_path / "bert"), lowercase=lowercase)
        return config.build().tokens(["CT"]).ids_BL[0].tolist()

    assert ids(None) == ids(True) != ids(False)


def test_a_hub_name_is_looked_up_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "a" * 40
    repository = tmp_path / "models--emilyalsentzer--Bio_ClinicalBERT"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    write_bert(repository / "snapshots" / commit, form="bin")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = resolve_source("emilyalsentzer/Bio_ClinicalBERT")
    assert (found / "pytorch_model.bin").is_file()


def test_a_hub_name_that_cannot_be_had_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        resolve_source("emilyalsentzer/Bio_ClinicalBERT")
    assert "hf download emilyalsentzer/Bio_ClinicalBERT" in caught.value.hint
    assert "Bio_ClinicalBERT into the weights folder" in caught.value.hint


def test_a_folder_that_is_not_there_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"Bio_ClinicalBERT/config\.json is missing"):
        resolve_source(str(tmp_path / "Bio_ClinicalBERT"))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", form="bin")
    (tmp_path / "bert" / "pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        TextTowerConfig(kind="bert", source=str(tmp_path / "bert")).build()


def test_torch_load_is_only_called_with_weights_only() -> None:
    calls = 0
    for module in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called = ast.unparse(node.func)
            assert called not in {"torch.jit.load", "torch.hub.load"}, module
            if called == "torch.load":
                calls += 1
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("weights_only") == "True", f"{module}:{node.lineno}"
    assert calls >= 1

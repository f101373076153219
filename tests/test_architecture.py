"""The rules of the house that a test can walk: import arrows, no torch, no pickle, short modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "clinical_clip"
BASE = {"errors", "types", "atomic", "spreadsheet", "__init__"}
LAYERS = [
    {"data", "dicom"},
    {"model"},
    {"loss"},
    {"train"},
    {"embed"},
    {"index"},
    {"search"},
    {"evaluate", "serve", "pacs"},
    {"cli"},
    {"__main__"},
]
TORCH_HOMES = {"model", "loss", "train"}
FORBIDDEN_CALLS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(part: str) -> int:
    if part in BASE:
        return -1
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    raise AssertionError(f"{part} has no place in the architecture")


def imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {module}"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrow_faults(own: str, names: Iterable[str]) -> list[str]:
    faults = []
    for name in names:
        parts = name.split(".")
        if parts[0] != "clinical_clip" or len(parts) < 2 or parts[1] == "__version__":
            continue
        other = parts[1]
        sideways = level(other) == level(own) >= 0 and other != own and (own, other) != ("data", "dicom")
        if level(other) > level(own) or sideways:
            faults.append(name)
    return faults


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(module: Path) -> None:
    assert arrow_faults(part_of(module), imports(module)) == []


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("data", "clinical_clip.search.run"),
        ("dicom", "clinical_clip.data.load"),
        ("index", "clinical_clip.cli"),
        ("errors", "clinical_clip.data"),
        ("evaluate", "clinical_clip.serve.app"),
    ],
)
def test_an_upward_arrow_is_found(own: str, name: str) -> None:
    assert arrow_faults(own, [name]) == [name]


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_torch_in_the_runtime_and_no_pickle_anywhere(module: Path) -> None:
    roots = {name.split(".")[0] for name in imports(module)}
    assert not roots & FORBIDDEN_CALLS
    if part_of(module) not in TORCH_HOMES and "torch" not in module.name:
        assert not roots & {"torch", "torchvision", "open_clip", "transformers"}
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 400


WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "open_clip", "transformers"}:
            raise ModuleNotFoundError(f"blocked: {name}")
sys.meta_path.insert(0, Block())
import importlib, pkgutil
import clinical_clip
for module in pkgutil.walk_packages(clinical_clip.__path__, "clinical_clip."):
    part = module.name.split(".")[1]
    if part not in {"model", "loss", "train", "__main__"} and "torch" not in module.name:
        importlib.import_module(module.name)
from clinical_clip.embed.encoders import open_encoder
from clinical_clip.embed.known_answer import known_pictures
encoder = open_encoder()
assert encoder.encode_images(known_pictures(encoder.preprocessing.size, 1)).shape == (1, encoder.width)
print("ran")
"""


def test_core_imports_and_runs_where_torch_is_absent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.strip() == "ran", done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, clinical_clip.cli.main; heavy = "
        "{'numpy', 'cv2', 'openvino', 'pydicom', 'sqlalchemy', 'matplotlib', 'usearch', 'torch'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"

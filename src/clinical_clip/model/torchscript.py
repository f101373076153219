"""The tensors of a TorchScript archive, read without compiling or running anything in it.

OpenAI publishes CLIP as TorchScript archives: a zip with ``data.pkl`` (the module tree), ``data/0``,
``data/1``, ... (the storages' bytes) and ``code/`` (programs). ``torch.load(weights_only=True)`` refuses
them, and ``torch.jit.load`` (what open_clip calls) compiles their programs and may run ``__setstate__``.
This reader does neither: it walks the pickle's opcodes with :func:`pickletools.genops`, which only lists
them, and rebuilds nothing but numbers, strings, containers and descriptions of tensors. Classes and
functions are kept as their names, calls as inert records.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clinical_clip.errors import WeightsError

__all__ = ["is_torchscript", "read_torchscript"]

_DTYPES = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
_REBUILDERS = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"}
_MARK = object()
_MAX_DEPTH = 200


@dataclass(frozen=True)
class _Name:
    """A class or function, by its name alone."""

    value: str


@dataclass
class _Record:
    """An object or a call that was not made."""

    kind: Any
    arguments: Any = ()
    state: Any = field(default_factory=dict)


@dataclass(frozen=True)
class _Stored:
    """What a persistent id says of a storage."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class _TensorRef:
    storage: _Stored
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip with TorchScript's ``constants.pkl``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path, *, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The state dict of a TorchScript archive: dotted names to tensors on the CPU, in their own dtype.

    Args:
        wanted: read only the tensors whose names it accepts.

    Raises:
        WeightsError: the archive is damaged or holds what a module's state does not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            [pickled] = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            root = pickled.removesuffix("data.pkl")
            tree = _parse(archive.read(pickled))
            found = dict(_tensors(tree, _StateNames(archive, root), "", 0))
            return {name: _materialise(archive, root, ref) for name, ref in found.items() if wanted(name)}
    except (zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError, EOFError, RuntimeError) as error:
        raise WeightsError(
            f"not a whole TorchScript archive: {type(error).__name__}",
            where=str(path),
            hint="get the file again and compare its SHA-256",
        ) from error


class _StateNames:
    """Which attributes of a class are parameters and buffers: the text of ``code/`` lists them.

    Other tensor attributes (constants such as a causal mask) are no part of a state dict.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.known: dict[str, set[str] | None] = {}

    def of(self, kind: Any) -> set[str] | None:
        """The names, or None where the archive does not say."""
        if not isinstance(kind, _Name):
            return None
        if kind.value not in self.known:
            self.known[kind.value] = self._look_up(*kind.value.split(" ", maxsplit=1))
        return self.known[kind.value]

    def _look_up(self, module: str, name: str) -> set[str] | None:
        path = f"{self.root}code/{module.replace('.', '/')}.py"
        if path not in self.archive.namelist():
            return None
        text = self.archive.read(path).decode("utf-8")
        header = re.search(
            rf"^class {re.escape(name)}\(Module\):\n((?:  __\w+__ = \[.*\]\n)+)", text, re.MULTILINE
        )
        if header is None or "__buffers__" not in header[1]:
            return None
        return set(re.findall(r'"([^"]+)"', header[1]))


def _tensors(value: Any, names: _StateNames, prefix: str, depth: int) -> Iterator[tuple[str, _TensorRef]]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, _TensorRef):
        yield prefix, value
    elif isinstance(value, _Record) and isinstance(value.state, dict):
        state_names = names.of(value.kind)
        for name, child in value.state.items():
            if isinstance(child, _TensorRef) and state_names is not None and name not in state_names:
                continue
            yield from _tensors(child, names, f"{prefix}.{name}" if prefix else str(name), depth + 1)


def _materialise(archive: zipfile.ZipFile, root: str, ref: _TensorRef) -> Tensor:
    stored = ref.storage
    member = archive.getinfo(f"{root}data/{stored.key}")
    size = stored.dtype.itemsize * stored.count
    if member.file_size != size or len(ref.size) != len(ref.stride) or min((*ref.size, *ref.stride, 0)) < 0:
        raise ValueError(f"storage {stored.key} does not hold what is said of it")
    last = ref.offset + sum((n - 1) * step for n, step in zip(ref.size, ref.stride, strict=True))
    if ref.offset < 0 or (0 not in ref.size and last >= stored.count):
        raise ValueError("a tensor reaches beyond its storage")
    if stored.count == 0:
        return torch.empty(ref.size, dtype=stored.dtype)
    flat = torch.frombuffer(bytearray(archive.read(member)), dtype=stored.dtype)
    return torch.as_strided(flat, ref.size, ref.stride, ref.offset).clone()


def _stored(pid: Any) -> _Stored:
    kind, storage, key, _device, count = pid
    if kind != "storage" or not isinstance(storage, _Name) or not str(key).isalnum():
        raise ValueError("not a storage")
    return _Stored(_DTYPES[storage.value], str(key), int(count))


def _call(function: Any, arguments: Any) -> Any:
    if isinstance(function, _Name) and function.value in _REBUILDERS:
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, _Stored):
            raise ValueError("a tensor without a storage")
        return _TensorRef(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))
    return _Record(function, arguments)


class _Machine:
    """A stack and a memo: the pickle machine without its power to import and call."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        """Pop everything down to the mark."""
        place = len(self.stack) - 1 - next(i for i, v in enumerate(reversed(self.stack)) if v is _MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def last(self, count: int) -> list[Any]:
        """Pop ``count`` values, first pushed first."""
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items


def _set_items(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, dict):
        target.update(zip(items[::2], items[1::2], strict=True))
    elif not isinstance(target, _Record):
        raise TypeError("items set on what is not a dict")


def _build(machine: _Machine) -> None:
    target, state = machine.last(2)
    if not isinstance(target, _Record):
        raise TypeError("state given to what is not an object")
    target.state = state
    machine.stack.append(target)


def _appends(machine: _Machine, items: list[Any]) -> None:
    if isinstance(machine.stack[-1], list):
        machine.stack[-1].extend(items)
    elif not isinstance(machine.stack[-1], _Record):
        raise TypeError("values appended to what is not a list")


_LITERALS = {
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": lambda m, arg: m.stack.append(_Name(arg)),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.last(3))),
    "NEWOBJ": lambda m, _: m.stack.append(_Record(*m.last(2))),
    "REDUCE": lambda m, _: m.stack.append(_call(*m.last(2))),
    "BINPERSID": lambda m, _: m.stack.append(_stored(m.stack.pop())),
    "BUILD": lambda m, _: _build(m),
    "BINPUT": lambda m, arg: m.memo.__setitem__(arg, m.stack[-1]),
    "LONG_BINPUT": lambda m, arg: m.memo.__setitem__(arg, m.stack[-1]),
    "BINGET": lambda m, arg: m.stack.append(m.memo[arg]),
    "LONG_BINGET": lambda m, arg: m.stack.append(m.memo[arg]),
    "SETITEM": lambda m, _: _set_items(m, m.last(2)),
    "SETITEMS": lambda m, _: _set_items(m, m.since_mark()),
    "APPEND": lambda m, _: _appends(m, m.last(1)),
    "APPENDS": lambda m, _: _appends(m, m.since_mark()),
}


def _parse(pickled: bytes) -> Any:
    machine = _Machine()
    for opcode, arg, _position in pickletools.genops(pickled):
        if opcode.name in ("PROTO", "FRAME"):
            continue
        if opcode.name == "STOP":
            [result] = machine.stack
            return result
        if opcode.name in _LITERALS:
            machine.stack.append(arg)
        elif opcode.name in _CONSTANTS:
            machine.stack.append(_CONSTANTS[opcode.name]())
        elif opcode.name in _ACTIONS:
            _ACTIONS[opcode.name](machine, arg)
        else:
            raise ValueError(f"opcode {opcode.name} has no place in a module's state")
    raise EOFError("the pickle has no end")
